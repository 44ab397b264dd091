"""A record over the size that the topic takes, on a real broker: sent in parts, answered, joined, or named."""

from __future__ import annotations

import json
import random

import pytest

from consumer.cli.app import run
from schemas import Prediction
from tests.support.harness import NoopServe, serving
from tests.support.kafka import admin
from tests.support.kafka.job import Job
from virnucpro_client import Client, Topics
from virnucpro_client.parts import part_of

LIMIT = 60_000
LENGTH = 300_000


@pytest.fixture
def small(job: Job, monkeypatch) -> Job:
    """A job whose input topic takes messages of 60 kB."""
    admin.configure_topic(job.bootstrap, f"{job.name}.in", "max.message.bytes", str(LIMIT))
    for name, value in job.variables.items():
        monkeypatch.setenv(name, value)
    return job


def test_what_the_topic_does_not_take_is_sent_in_parts_and_joined_or_named(small, tmp_path, capsys):
    letters = "".join(random.Random(1).choices("ACGT", k=LENGTH))
    fasta = tmp_path / "in.fasta"
    # A part of `bad` has a letter that is not one of nucleotides.
    fasta.write_text(f">big\n{letters}\n>small\nACGT\n>bad\n{letters[:200_000]}!{letters[200_001:]}\n")
    out, watched = tmp_path / "out.jsonl", tmp_path / "watched.jsonl"
    with serving(
        tmp_path / "serve.log", kind=NoopServe, NOOP_BASES_PER_FRAME="500", **small.worker(0)
    ) as serve:
        command = ["publish", str(fasta), "--no-check", "--key", "none", "--wait", "--format", "jsonl"]
        assert run([*command, "-o", str(out)]) == 1
        said = capsys.readouterr().err
        with Client(
            small.bootstrap, Topics(*(f"{small.name}.{name}" for name in ("in", "out", "dlq")))
        ) as client:
            (answer,) = client.wait(client.publish([("big", letters)]), 60)
        assert serve.stop() == 0
    assert "published 3 records (2 in parts)" in said
    assert "record 'bad' has no prediction: dead letter, part 4 of 6: invalid_nucleotides" in said
    assert "2 of 3 records have their prediction" in said
    lines = out.read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["big", "small"]
    big = json.loads(lines[0])
    assert (big["length"], big["chunks"][-1]["name"], big["chunks"][-1]["end"]) == (
        LENGTH,
        "big_chunk_600",
        LENGTH,
    )
    assert isinstance(answer.content, Prediction)
    assert [chunk.name for chunk in answer.content.chunks] == [chunk["name"] for chunk in big["chunks"]]

    sent = [(part_of(tuple(message.headers() or ())), message) for message in small.read_all("in")]
    groups = {part.group for part, _ in sent if part is not None}
    for group in groups:
        assert (
            len({message.partition() for part, message in sent if part is not None and part.group == group})
            == 1
        )
    assert len(groups) == 3

    assert run(["watch", "--join", "--dlq", "--until-end", "--format", "jsonl", "-o", str(watched)]) == 1
    said = capsys.readouterr().err
    assert sorted(watched.read_text().splitlines()) == sorted([*lines, lines[0]])
    assert (
        "record 'bad' has no prediction: of its 6 parts no prediction of 4 (dead letter, invalid_nucleotides) has come"
    ) in said
    assert said.splitlines()[-1].startswith("virnucpro: error: 1 records in parts are incomplete")
    # Without the option each part is shown as it is.
    assert run(["watch", "--until-end", "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(small.read_all("out")) == 1 + 6 + 5 + 6
