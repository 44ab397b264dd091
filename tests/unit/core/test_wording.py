"""Pieces of messages."""

from __future__ import annotations

import hashlib

import pytest

from virnucpro_core.hashing import sha256_of
from virnucpro_core.wording import one_line, some_of


@pytest.mark.parametrize(
    ("names", "count", "said"),
    [
        (["a"], None, "a"),
        (["a", "b", "c"], None, "a, b, c"),
        (["a", "b", "c", "d"], None, "a, b, c and 1 more"),
        (["a", "b", "c"], 1203, "a, b, c and 1,200 more"),
        (["a", "b"], 2, "a, b"),
    ],
)
def test_the_first_names_and_how_many_more(names, count, said):
    assert some_of(names, count) == said


def test_a_message_is_one_line_of_bounded_length():
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert one_line("x" * 500, 300) == "x" * 300


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, (1 << 20) + 1])
def test_the_sha256_of_a_file_and_the_bytes_as_they_are_read(tmp_path, size):
    path, read = tmp_path / "file", []
    path.write_bytes(b"x" * size)
    assert sha256_of(path, read.append) == sha256_of(path) == hashlib.sha256(b"x" * size).hexdigest()
    assert sum(read) == size
