"""`publish --wait` on a real broker, while a worker and the broker are killed: an answer for each record.

PUBLISH_WAIT_RECORDS=10000 in the environment takes so many records (docs/reliability.md); without it, fewer.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.harness import ROOT, NoopServe, Serve, environment, serving, wait_until
from tests.support.kafka.job import Job
from tests.support.noop_service import FAILS

RECORDS = int(os.environ.get("PUBLISH_WAIT_RECORDS", "2000"))
SLOW = {"NOOP_TOKENS_PER_S": "20000", "VIRNUCPRO_TOKEN_BUDGET": "2000"}  # 2000 records take ten seconds


def answered(serve: Serve) -> float:
    return serve.metric("vnp_predictions_total", verdict="virus")


def test_every_record_has_its_answer_while_a_worker_and_the_broker_are_killed(own_broker, tmp_path):
    job = Job.create(own_broker)
    ids = [f"r{n}" for n in range(RECORDS)]
    ids[7], ids[1500] = f"a{FAILS}", f"b{FAILS}"
    path, out = tmp_path / "in.fasta", tmp_path / "out.jsonl"
    path.write_text("".join(f">{each}\nACGTACGT\n" for each in ids))
    command = ["publish", str(path), "--wait", "--format", "jsonl", "-o", str(out), "--deadline", "240"]
    with serving(tmp_path / "0.log", kind=NoopServe, **job.worker(0), **SLOW) as first:
        process = _start(command, job, tmp_path)
        try:
            wait_until(lambda: answered(first) > 100, "a part is answered")
            first.stop(signal.SIGKILL)
            with serving(tmp_path / "1.log", kind=NoopServe, **job.worker(0), **SLOW) as second:
                wait_until(lambda: answered(second) > 100, "more is answered")
                own_broker.kill()
                own_broker.start()
                code = process.wait(300)
                second.stop()
        finally:
            process.kill()
            process.wait()
    said = (tmp_path / "err.txt").read_text()
    assert code == 1, said
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [
        i for i in ids if FAILS not in i
    ]
    for each in (f"a{FAILS}", f"b{FAILS}"):
        assert f"record '{each}' has no prediction: dead letter, inference_failed" in said
    assert said.splitlines()[-1].startswith(f"virnucpro: error: 2 of {RECORDS} records have no prediction")


def _start(command: list[str], job: Job, folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "err.txt").open("wb") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", "consumer.cli.app", *command],
            cwd=ROOT,
            env=environment(**job.variables),
            stderr=stderr,
        )
