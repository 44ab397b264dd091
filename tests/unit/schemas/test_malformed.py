"""The one error of decoding."""

from __future__ import annotations

from schemas import MalformedMessage, Reason


def test_its_detail_is_one_bounded_line_whatever_it_quotes():
    error = MalformedMessage(Reason.MALFORMED, "a type\nof\u2028two  lines" + 400 * "x")
    assert error.detail.startswith("a type of two lines")
    assert len(error.detail) == 300
