"""Short chaos runs: every kind of fault at least once, for either guarantee. The long ones: `python -m tests.chaos`.

CHAOS_SEED in the environment is another seed than the usual one; the seed and everything that happens is printed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.chaos import run as chaos
from tests.chaos.faults import WITHOUT_TOPICS, Kind
from tests.chaos.report import Options, Report
from tests.support.kafka.broker import NoBroker
from tests.support.kafka.choice import do_without

KINDS = tuple(Kind)
SEED = int(os.environ.get("CHAOS_SEED", "1"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Printer(chaos.Watcher):
    def event(self, seconds: float, text: str) -> None:
        print(f"{seconds:7.1f} s  {text}", flush=True)


def run(options: Options, folder: Path) -> Report:
    print(f"seed {options.seed}, {options.delivery}; the logs are in {folder}", flush=True)
    try:
        report = chaos.run(options, folder, Printer())
    except NoBroker as reason:
        do_without(reason)
    print(json.dumps(report.as_dict(), indent=2), flush=True)
    return report


def test_exactly_once_every_record_has_one_answer(tmp_path):
    report = run(Options(SEED, records=2500, faults=len(KINDS), every=3.0, kinds=KINDS), tmp_path)
    assert report.problems == []
    assert report.passed_over == []
    assert report.answered + report.skipped == report.published > 2500
    assert report.repeats == 0
    assert {kind for kind, times in report.faults.items() if times} == set(KINDS)


def test_at_least_once_every_record_has_an_answer(tmp_path):
    options = Options(SEED, records=1200, faults=6, every=6.0, delivery="at_least_once", kinds=WITHOUT_TOPICS)
    report = run(options, tmp_path)
    assert report.problems == []
    assert report.answered == report.published == 1200
