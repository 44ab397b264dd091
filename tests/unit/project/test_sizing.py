"""deploy/sizing.py computes what docs/sizing.md says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from consumer.config.settings import ServiceSettings
from deploy.sizing import LEAST_INFLIGHT, Load, size

ROOT = Path(__file__).parents[3]


def test_the_guide_shows_what_the_calculator_prints():
    guide = (ROOT / "docs/sizing.md").read_text(encoding="utf-8")
    shown = re.search(r"^    \$ python (deploy/sizing\.py .*)\n((?:    .+\n)+)", guide, re.MULTILINE)
    assert shown is not None
    done = subprocess.run(
        [sys.executable, *shown[1].split()], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == [line.removeprefix("    ") for line in shown[2].splitlines()]


def test_one_worked_by_hand():
    found = size(Load(tokens_per_s=10_000, record_bases=500, records_per_s=350, wait_s=30))
    assert (found.tokens_per_record, found.records_per_s) == (100, 100)
    assert found.processes == 5, "at 70 of 100 records a second each"
    assert (found.partitions, found.activation_lag_threshold) == (10, 10)
    assert found.lag_threshold == 3000
    assert found.max_inflight_records == LEAST_INFLIGHT
    assert found.disk_gb == pytest.approx(500 * 350 * 72 * 3600 * 3 / 1e9)


def test_what_transactions_leave_never_reaches_the_threshold():
    slow = size(Load(tokens_per_s=100, record_bases=5000, records_per_s=1))
    assert slow.lag_threshold == 10 * slow.partitions


def test_short_reads_need_more_in_flight_than_the_default():
    assert size(Load(tokens_per_s=1e5, record_bases=150, records_per_s=1)).max_inflight_records == 2185
    assert ServiceSettings.model_fields["max_inflight_records"].default == LEAST_INFLIGHT


@pytest.mark.parametrize("wrong", [{"record_bases": 0}, {"use": 1.5}, {"tokens_per_s": float("inf")}])
def test_numbers_without_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        size(Load(**({"tokens_per_s": 1, "record_bases": 1, "records_per_s": 1} | wrong)))


def test_the_charts_example_is_the_same_formula():
    values = (ROOT / "deploy/helm/virnucpro-stream/values.yaml").read_text(encoding="utf-8")
    example = size(Load(tokens_per_s=50_000, record_bases=5000, records_per_s=1))
    assert yaml.safe_load(values)["autoscaling"]["lagThreshold"] == example.lag_threshold
    assert "50,000 tokens/s, 1,000 tokens a record, 60 s: 3,000" in values
