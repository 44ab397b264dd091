"""Columns of a table for people."""

from __future__ import annotations

from consumer.cli.output.alignment import aligned


def test_names_stand_to_the_left_and_numbers_to_the_right():
    rows = [("", "number", "AUROC"), ("chunks", "7", "0.9"), ("records", "1,000", "0.95")]
    assert list(aligned(rows)) == [
        "         number  AUROC",
        "chunks        7    0.9",
        "records   1,000   0.95",
    ]


def test_a_heading_widens_no_column_and_an_empty_row_is_an_empty_line():
    rows = [("a heading as long as it likes",), ("a", "1"), (), ("bb", "22", "3")]
    assert list(aligned(rows)) == ["a heading as long as it likes", "a    1", "", "bb  22  3"]


def test_nothing_and_headings_alone():
    assert list(aligned([])) == []
    assert list(aligned([("only this",)])) == ["only this"]
