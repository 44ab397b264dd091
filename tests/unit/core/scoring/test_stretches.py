"""Viral stretches: which chunks belong together, and how BED and GFF3 say so."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.results import left_out, of_virus_scores, scored
from virnucpro_core.scoring.stretches import Bed, Gff3, viral_stretches

V, O, N = 0.9, 0.1, None  # noqa: E741 - a chunk that is viral, others, without an open frame


def spans(*scores: float | None, gap: int = 0, size: int = 10, step: int = 10) -> list[tuple[int, int, int]]:
    found = of_virus_scores("r", *scores, size=size, step=step)
    return [(each.start, each.end, len(each.chunks)) for each in viral_stretches(found.chunks, gap)]


@pytest.mark.parametrize(
    ("scores", "gap", "expected"),
    [
        ([O, N], 500, []),
        ([V], 0, [(0, 10, 1)]),
        ([V, V, O, V], 500, [(0, 20, 2), (30, 40, 1)]),
        ([V, N, V], 9, [(0, 10, 1), (20, 30, 1)]),
        ([V, N, V], 10, [(0, 30, 2)]),
        ([V, N, O, N, V], 500, [(0, 10, 1), (40, 50, 1)]),
        ([N, V, N, N, V, N], 20, [(10, 50, 2)]),
    ],
)
def test_what_belongs_together(scores, gap, expected):
    assert spans(*scores, gap=gap) == expected


def test_chunks_that_overlap_or_touch_belong_together_without_any_gap():
    assert spans(V, V, size=12) == [(0, 22, 2)]
    assert spans(V, V) == [(0, 20, 2)]
    assert spans(V, V, step=11) == [(0, 10, 1), (11, 21, 1)]


@given(st.lists(st.sampled_from([V, O, N]), min_size=1, max_size=12), st.integers(0, 60))
def test_every_viral_chunk_is_in_one_stretch_and_no_other_chunk_is(scores, gap):
    found = of_virus_scores("r", *scores)
    stretches = viral_stretches(found.chunks, gap)
    members = [chunk for each in stretches for chunk in each.chunks]
    assert members == [chunk for chunk in found.chunks if chunk.verdict == "virus"]
    for one, following in pairwise(stretches):
        between = [chunk for chunk in found.chunks if one.end <= chunk.start < following.start]
        assert following.start - one.end > gap or any(chunk.verdict == "others" for chunk in between)


def test_bed_counts_from_0_and_ends_behind_the_last_base():
    stream = io.StringIO()
    writer = Bed(stream, 10)
    for outcome in (scored(of_virus_scores("a\tb", 0.7, N, 0.9, O, 0.6)), left_out()):
        writer.add(outcome)
    writer.finish()
    assert stream.getvalue() == (
        "a\\tb\t0\t30\ta\\tb_stretch_1\t800\t.\n"
        "a\\tb\t0\t10\ta\\tb_chunk_1\t700\t.\n"
        "a\\tb\t20\t30\ta\\tb_chunk_3\t900\t.\n"
        "a\\tb\t40\t50\ta\\tb_stretch_2\t600\t.\n"
        "a\\tb\t40\t50\ta\\tb_chunk_5\t600\t.\n"
    )


def test_gff3_counts_from_1_and_ends_on_the_last_base():
    stream = io.StringIO()
    writer = Gff3(stream, 10)
    for name in ("x;y=1 é%~", "b", "b"):
        writer.add(scored(of_virus_scores(name, 0.75, N, 0.25)))
    writer.add(left_out())
    writer.finish()
    head, *rows = stream.getvalue().splitlines()
    assert head == "##gff-version 3"
    name = "x%3By%3D1%20%C3%A9%25%7E"
    assert rows[:2] == [
        f"{name}\tvirnucpro-stream\tviral_sequence\t1\t10\t0.75\t.\t.\tID=stretch_1;chunks=1",
        f"{name}\tvirnucpro-stream\tregion\t1\t10\t0.75\t.\t.\tParent=stretch_1;Name={name}_chunk_1;others_score=0.25",
    ]
    assert [row.rsplit("\t", 1)[1].split(";")[0] for row in rows[2:]] == [
        *("ID=stretch_2", "Parent=stretch_2", "ID=stretch_3", "Parent=stretch_3")
    ]
