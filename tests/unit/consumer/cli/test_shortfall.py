"""A new head that is far below its base in either class is reported."""

from __future__ import annotations

from typing import Any

import pytest

from consumer.cli.heads.shortfall import shortfalls


def measured(head: str, sensitivity: float, specificity: float, features: str = "packed") -> dict[str, Any]:
    level = {"pieces": 100, "of_viruses": 60, "sensitivity": sensitivity, "specificity": specificity}
    return {"head": head, "features": features, "chunks": level, "records_by_verdict": level}


@pytest.mark.parametrize(
    ("sensitivity", "specificity", "expected"),
    [(0.9, 0.8, 0), (0.82, 0.75, 0), (0.79, 0.8, 2), (0.9, 0.6, 2), (0.5, 0.5, 4), (1.0, 0.69, 2)],
)
def test_each_class_and_level_far_below_has_its_line(sensitivity, specificity, expected):
    report = {
        "measured": [
            measured("new", sensitivity, specificity),
            measured("new", 0.0, 0.0, "v1"),
            measured("base (nano)", 0.9, 0.8),
            measured("base (nano)", 0.0, 0.0, "v1"),
        ]
    }
    lines = shortfalls(report)
    assert len(lines) == expected
    assert all("base (nano)" in line for line in lines)


def test_one_record_of_a_handful_is_not_a_shortfall():
    few = {"pieces": 8, "of_viruses": 4, "sensitivity": 0.5, "specificity": 1.0}
    full = few | {"sensitivity": 1.0}
    entry = {"features": "packed", "records_by_verdict": few, "chunks": few}
    report = {
        "measured": [
            entry | {"head": "new"},
            entry | {"head": "base", "records_by_verdict": full, "chunks": full},
        ]
    }
    assert shortfalls(report) == []
