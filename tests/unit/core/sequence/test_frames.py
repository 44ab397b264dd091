"""Six frames, open frames, and the nucleotides that go with them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support import reference_impl
from virnucpro_core.sequence.chunks import chunk_name, chunk_spans
from virnucpro_core.sequence.frames import OpenFrame, open_frames, open_frames_by_span

SHARED = Path(os.environ.get("VIRNUCPRO_SHARED", Path(__file__).resolve().parents[5] / "shared"))
ORIGINAL = SHARED / "reference" / "frames.json"


def found(chunk: str) -> dict[str, tuple[str, str]]:
    return {frame.label: (frame.nucleotides, frame.protein) for frame in open_frames(chunk)}


def test_all_six_frames_in_order() -> None:
    # ATGGCCAAA / TTTGGCCAT: no stop in any phase
    assert open_frames("ATGGCCAAA") == [
        OpenFrame("F1", "ATGGCCAAA", "MAK"),
        OpenFrame("F2", "TGGCCAA", "WP"),
        OpenFrame("F3", "GGCCAAA", "GQ"),
        OpenFrame("R1", "TTTGGCCAT", "FGH"),
        OpenFrame("R2", "TTGGCCA", "LA"),
        OpenFrame("R3", "TGGCCAT", "WP"),
    ]


def test_every_codon_is_translated_by_the_standard_code() -> None:
    for codon, residue in reference_impl.CODONS.items():
        proteins = {frame.label: frame.protein for frame in open_frames(codon)}
        assert proteins.get("F1") == (None if residue == "*" else residue)


def test_a_stop_anywhere_closes_its_frame_only() -> None:
    assert "F1" not in found("TAAGCCGCC")
    assert "F1" not in found("GCCGCCTAA")
    assert "F2" in found("TAAGCCGCC")
    assert "R1" not in found("GCCTTA")  # TAA on the other strand


def test_one_letter_more_than_the_codons_where_there_is_one() -> None:
    assert found("GCCGCC")["F1"] == ("GCCGCC", "AA")
    assert found("GCCGCCG")["F1"] == ("GCCGCCG", "AA")
    assert found("GCCGCCGC")["F1"] == ("GCCGCCG", "AA")


def test_a_codon_with_another_letter_is_dropped_and_the_nucleotides_are_a_prefix() -> None:
    # GCC NNN AAA: the protein is AK, the nucleotides are 7 letters from the start, not the codons' own.
    assert found("GCCNNNAAA")["F1"] == ("GCCNNNA", "AK")
    assert found("GCCRAAAAA")["F1"] == ("GCCRAAA", "AK")


def test_a_dropped_codon_does_not_hide_a_stop() -> None:
    assert "F1" not in found("NNNTAAGCC")


def test_u_is_not_t() -> None:
    assert found("AUGGCC")["F1"] == ("AUGG", "A")
    # ... nor is it swapped on the other strand: GGC CUT
    assert found("AUGGCC")["R1"] == ("GGCC", "G")


def test_letters_other_than_acgt_stay_on_the_reverse_strand() -> None:
    assert found("GGCRYN")["R1"] == ("NYRG", "A")


def test_lower_case_is_read_as_upper_case() -> None:
    assert open_frames("atggccaaa") == open_frames("ATGGCCAAA")


@pytest.mark.parametrize("chunk", ["", "A", "AC", "NNN", "NNNNNNNNNNN", "TAA" * 3 + "TTA" * 3])
def test_chunks_without_an_open_frame(chunk: str) -> None:
    assert [frame.label for frame in open_frames(chunk)] == [
        frame.name[-2:] for frame in reference_impl.open_frames("", chunk)
    ]
    if len(chunk) < 3 or set(chunk) == {"N"}:
        assert open_frames(chunk) == []


def test_chunks_of_one_letter_in_a_longer_record_have_no_frames() -> None:
    assert open_frames_by_span("ATGGCCAAAGGG", [(0, 1), (1, 2), (0, 2)]) == [[], [], []]


def test_no_spans_no_frames() -> None:
    assert open_frames_by_span("", []) == []


def test_a_letter_outside_ascii_is_refused() -> None:
    with pytest.raises(ValueError, match="ascii"):
        open_frames("ACGé")


@pytest.mark.skipif(not ORIGINAL.is_file(), reason=f"the original's results are not at {ORIGINAL}")
def test_the_frames_that_the_original_scored() -> None:
    original = json.loads(ORIGINAL.read_text(encoding="utf-8"))
    ours = []
    for record in original["records"]:
        spans = chunk_spans(len(record["sequence"]), original["expected_length"])
        for index, frames in enumerate(open_frames_by_span(record["sequence"], spans)):
            name = chunk_name(record["id"], index)
            ours += [(name + frame.label, frame.nucleotides, frame.protein) for frame in frames]
    assert ours == [(frame["id"], frame["nt"], frame["aa"]) for frame in original["frames"]]
