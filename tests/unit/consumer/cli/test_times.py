"""Points in time as people write them."""

from __future__ import annotations

import pytest

from consumer.cli.error_messages import UserError
from consumer.cli.topics.times import point_in_time, shown_time

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("30m", 1_699_998_200_000),
        ("1.5h", 1_699_994_600_000),
        ("2d", 1_699_827_200_000),
        ("10s", 1_699_999_990_000),
        ("2023-11-14T22:13:20", 1_700_000_000_000),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000_000),
        ("2023-11-14", 1_699_920_000_000),
    ],
)
def test_ago_and_iso(text, milliseconds):
    assert point_in_time(text, "--since", NOW) == milliseconds


@pytest.mark.parametrize("text", ["", "soon", "5", "2023-13-01", "-2h"])
def test_all_else_is_refused_with_an_example(text):
    with pytest.raises(UserError, match=r"--since .* is not a time: write 30m"):
        point_in_time(text, "--since", NOW)


def test_times_are_shown_in_utc():
    assert shown_time(1_700_000_000_999) == "2023-11-14 22:13:20"
