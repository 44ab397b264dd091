"""Where a sequence is cut."""

from __future__ import annotations

import pytest

from tests.support import reference_impl
from virnucpro_core.sequence.chunks import chunk_name, chunk_spans


@pytest.mark.parametrize(
    ("length", "size", "spans"),
    [
        (0, 500, []),
        (1, 500, [(0, 1)]),
        (499, 500, [(0, 499)]),
        (500, 500, [(0, 500)]),
        (501, 500, [(0, 500), (250, 501)]),  # 499 letters too many: overlap 250, the last chunk has 251
        (700, 500, [(0, 500), (349, 700)]),
        (999, 500, [(0, 500), (499, 999)]),
        (1000, 500, [(0, 500), (500, 1000)]),
        (1001, 500, [(0, 500), (333, 833), (666, 1001)]),  # 499 over two junctions: 167 each, and a short end
        (1300, 500, [(0, 500), (433, 933), (866, 1300)]),
        (301, 300, [(0, 300), (150, 301)]),
        (4, 1, [(0, 1), (1, 2), (2, 3), (3, 4)]),
    ],
)
def test_spans_worked_out_by_hand(length: int, size: int, spans: list[tuple[int, int]]) -> None:
    assert chunk_spans(length, size) == spans


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20])
def test_every_length_up_to_eight_chunks_is_cut_as_the_plain_rule_cuts_it(size: int) -> None:
    for length in range(8 * size + 1):
        letters = "".join(chr(65 + index % 26) for index in range(length))
        expected = [(start, start + len(chunk)) for start, chunk in reference_impl.cut(letters, size)]
        assert chunk_spans(length, size) == expected


@pytest.mark.parametrize(("length", "size"), [(-1, 500), (10, 0), (10, -3)])
def test_impossible_arguments_are_refused(length: int, size: int) -> None:
    with pytest.raises(ValueError, match="base"):
        chunk_spans(length, size)


def test_names_count_from_one() -> None:
    assert chunk_name("NC_1.1", 0) == "NC_1.1_chunk_1"
    assert chunk_name("NC_1.1", 9) == "NC_1.1_chunk_10"
