"""The commands of docs/disasters.md and docs/upgrade.md, as they stand there, on a real broker."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas import decode_prediction
from tests.support.harness import ROOT, NoopServe, environment, serving, wait_until
from tests.support.kafka.job import Job

WRONG, RIGHT = "bad0" * 16, "600d" * 16

pytestmark = pytest.mark.skipif(shutil.which("jq") is None, reason="the commands need jq")


def block(page: str, begin: str) -> str:
    """The indented block of a page that begins so."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(f"    {begin}"))
    last = next(number for number in range(first, len(lines)) if not lines[number].startswith("    "))
    return "\n".join(lines[first:last])


def shell(job: Job, folder: Path, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script.replace("kafka:9092", job.bootstrap)],
        env=environment(PATH=path, PYTHONPATH=str(ROOT), **(job.variables | variables)),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def passes(job: Job, folder: Path, script: str, **variables: str) -> str:
    done = shell(job, folder, script, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def answer(job: Job, folder: Path, count: int, **variables: str) -> None:
    """Run a service until all input is answered."""
    with serving(folder / "serve.log", kind=NoopServe, **job.worker(0), **variables) as serve:
        job.finish(count)
        assert serve.stop() == 0


def test_offsets_of_a_group_that_is_gone_are_restored_from_the_answers(job, tmp_path):
    job.publish(0, 40)
    answer(job, tmp_path, 40)
    client = AdminClient({"bootstrap.servers": job.bootstrap})
    client.delete_consumer_groups([job.name])[job.name].result(30)
    assert job.committed() == 0

    passes(job, tmp_path, block("disasters.md", "virnucpro watch --dlq"))

    rows = [line.split(",") for line in (tmp_path / "offsets.csv").read_text().splitlines()]
    offsets = [TopicPartition(topic, int(partition), int(offset)) for topic, partition, offset in rows]
    restored = ConsumerGroupTopicPartitions(job.name, offsets)
    client.alter_consumer_group_offsets([restored])[job.name].result(30)
    assert job.committed() == 40
    job.publish(40, 60)
    answer(job, tmp_path, 60)
    job.check(60)


def test_what_a_wrong_model_answered_is_found_and_answered_again_by_the_right_one(job, tmp_path):
    job.publish(0, 20)
    answer(job, tmp_path, 20, NOOP_SHA256=RIGHT)
    job.publish(20, 40)
    answer(job, tmp_path, 40, NOOP_SHA256=WRONG)
    (tmp_path / "examples").symlink_to(ROOT / "examples")

    passes(job, tmp_path, block("disasters.md", "virnucpro watch --json"), WRONG_SHA256=WRONG)
    passes(job, tmp_path, block("disasters.md", "python examples/python/republish.py"))

    places = (tmp_path / "places.txt").read_text().splitlines()
    assert len(places) == 18, "of twenty records two are dead letters"
    assert sorted((tmp_path / "republished.txt").read_text().splitlines()) == sorted(places)
    answer(job, tmp_path, 58, NOOP_SHA256=RIGHT)
    by_model: dict[str, Counter[str]] = {RIGHT: Counter(), WRONG: Counter()}
    for message in job.read_all("out"):
        prediction = decode_prediction(message.value())
        by_model[prediction.provenance.model_sha256][prediction.id] += 1
    assert by_model[RIGHT] == Counter(f"r{number}" for number in range(40) if number % 10 != 9)
    assert by_model[WRONG] == Counter(f"r{number}" for number in range(20, 40) if number % 10 != 9)

    sent = Counter((m.partition(), m.key(), m.value(), str(m.headers())) for m in job.read_all("in"))
    assert sum(sent.values()) == 58
    assert set(sent.values()) == {1, 2}, "the same bytes in the same partition"


def test_a_place_that_is_gone_is_named(job, tmp_path):
    job.publish(0, 8)
    wait_until(lambda: len(job.read_all("in")) == 8, "published")
    partition = job.read_all("in")[0].partition()
    places = f"{job.name}.in/{partition}/0\\n{job.name}.in/{partition}/99999\\n"
    done = shell(job, ROOT, f"printf '{places}' | python examples/python/republish.py kafka:9092")
    assert (done.returncode, done.stdout) == (1, f"{job.name}.in/{partition}/0\n")
    assert done.stderr == f"{job.name}.in/{partition}/99999 is not there\n"
    done = shell(job, ROOT, "echo sequences/one/2 | python examples/python/republish.py kafka:9092")
    assert (done.returncode, done.stderr) == (
        1,
        "line 1 is 'sequences/one/2': expected topic/partition/offset\n",
    )


def test_two_releases_are_compared_and_the_predictions_tell_how_far_a_switch_is(job, broker, tmp_path):
    other = {
        "VIRNUCPRO_OUTPUT_TOPIC": f"{job.name}.v1",
        "VIRNUCPRO_GROUP_ID": f"{job.name}-v1",
        "VIRNUCPRO_DLQ_TOPIC": f"{job.name}.v1.dlq",
    }
    broker.create_topics({other["VIRNUCPRO_OUTPUT_TOPIC"]: 4, other["VIRNUCPRO_DLQ_TOPIC"]: 4})
    job.publish(0, 20)
    answer(job, tmp_path, 20)
    v1 = {"VIRNUCPRO_V1_ATTENTION": "1", "NOOP_VIRUS_SCORE": "0.25"}
    with serving(tmp_path / "v1.log", kind=NoopServe, **(job.worker(1) | other | v1)) as serve:
        wait_until(lambda: serve.metric("vnp_records_total", outcome="predicted") == 18, "all answered")
        assert serve.stop() == 0

    compare = block("upgrade.md", "answers() {").replace(
        "answers predictions", f"answers {job.name}.predictions"
    )
    compare = compare.replace(".predictions.v1", ".v1").replace(".predictions", ".out")
    differ = passes(job, tmp_path, compare)
    rows = [line.split("\t") for line in differ.splitlines()]
    assert len({row[0] for row in rows}) == len(rows) == 18
    assert {(row[1], row[3]) for row in rows} == {("virus", "others")}

    count = block("upgrade.md", "virnucpro watch --json")
    assert "18 packed" in " ".join(passes(job, tmp_path, count).split())
    assert "18 v1" in " ".join(passes(job, tmp_path, count, **other).split())
