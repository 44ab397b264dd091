"""`virnucpro demo` as a person starts it, with a tiny random model: the answers mean nothing, all else is real."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from consumer.cli.demo.sample import sample_truth
from tests.support.harness import ROOT, environment, virnucpro, wait_until
from tests.support.models_fixture import random_bundle


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(random_bundle(tmp_path_factory.mktemp("bundle") / "tiny").path)


def test_every_record_is_shown_with_its_truth_and_the_totals_are_right(model):
    # Settings of a broker must not reach the demo.
    done = virnucpro(
        "demo", VIRNUCPRO_MODEL=model, VIRNUCPRO_KAFKA_SECURITY_PROTOCOL="SSL", VIRNUCPRO_OUTPUT_TOPIC="x"
    )
    out = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    rows = {line.split()[0]: line for line in out.splitlines() if line.split()}
    for record_id, truth in sample_truth().items():
        assert re.search(
            rf"{truth.label}, (right|wrong|not seen) +(Viral|Non-viral|Ambiguous|) *{re.escape(truth.organism)}$",
            rows[record_id],
        )

    lines = [
        json.loads(line) for line in virnucpro("frames", "consumer/data/sample.fasta").stdout.splitlines()
    ]
    tokens = sum(len(line["protein"]) + 2 for line in lines if line["frame"])
    assert f"40 records, 95,420 bases, {tokens:,} tokens in " in out
    shown = re.search(r"Right: (\d+) of (\d+) \(virus (\d+) of (\d+), others (\d+) of (\d+)\)", out)
    assert shown
    right, called, right_virus, virus, right_others, others = map(int, shown.groups())
    assert (right, called) == (right_virus + right_others, virus + others)
    assert right == out.count(", right")
    assert called == 40 - out.count(", not seen")
    shown = re.search(
        r"By the contig rule: virus (\d+) of (\d+) Viral, (\d+) Ambiguous; others (\d+) of (\d+) Non-viral, (\d+) Amb",
        out,
    )
    assert shown
    numbers = list(map(int, shown.groups()))
    assert (numbers[1], numbers[4]) == (virus, others)
    in_rows = [re.search(r"(right|wrong) +(Viral|Non-viral|Ambiguous)", line) for line in rows.values()]
    counted = [found.group(2) for found in in_rows if found]
    assert len(counted) == called
    assert numbers[2] + numbers[5] == counted.count("Ambiguous")
    assert " predict reads.fasta" in out


def test_a_service_that_dies_is_told_with_the_end_of_its_log():
    done = virnucpro("demo", VIRNUCPRO_MODEL="no-such-model")
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert any(line.startswith("virnucpro: service: ") and "no-such-model" in line for line in lines)
    assert lines[-1].startswith("virnucpro: error: the service ended with exit code 1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_takes_the_service_down_too(model, number):
    demo = subprocess.Popen(
        [sys.executable, "-m", "consumer.cli.app", "demo"],
        cwd=ROOT,
        env=environment(VIRNUCPRO_MODEL=model),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert demo.stdout is not None
        assert any("The service starts" in line for line in demo.stdout)
        wait_until(lambda: bool(children(demo.pid)), "the service has started")
        (service,) = children(demo.pid)
        demo.send_signal(number)
        _, err = demo.communicate(timeout=60)
    finally:
        demo.kill()
    assert demo.returncode == 128 + number
    assert "Traceback" not in err
    assert not Path(f"/proc/{service}").exists()


def children(process: int) -> list[int]:
    """Child processes, from the process table."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[1]) == process:
            found.append(int(entry.parent.name))
    return found
