"""`virnucpro frames` against the plain second implementation, and its way with records that can't be scored."""

from __future__ import annotations

import json

import pytest

from consumer.cli.app import run
from tests.support import reference_impl

KEYS = ("record", "chunk", "frame", "nucleotides", "protein")
ODD = {
    "empty_of_frames": "TAACTAACTAA",
    "short": "AC",
    "one_codon": "ATG",
    "short_last_chunk": "ACGTTGCA" * 101,
    "n_codons": "ATGNNNGCANATTAGCNNACGT" * 20,
    "lower": "atgcgtacgttagcatcgatcgatcagcatcgactacg" * 15,
    "rna": "AUGGCUAGCUAGCAUCGAUCGAUUCGGCUA" * 12,
    "iupac": "RYSWKMBDHVNACGTTGCA" * 30,
    "exact": "GCA" * 100,
    "one_over": "GCA" * 100 + "T",
}


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "odd.fasta"
    path.write_text("".join(f">{name} a description\n{sequence}\n" for name, sequence in ODD.items()))
    return path


def expected_lines(size: int) -> list[dict[str, str | None]]:
    lines: list[dict[str, str | None]] = []
    for name, sequence in ODD.items():
        for chunk in reference_impl.process(name, sequence, size):
            found = [(frame.name, frame.nucleotides, frame.protein) for frame in chunk.frames]
            lines += [
                dict(zip(KEYS, (name, chunk.name, *values), strict=True))
                for values in found or [(None, None, None)]
            ]
    return lines


@pytest.mark.parametrize("size", [500, 300])
def test_frames_are_those_of_the_plain_implementation(fasta, capsys, size):
    assert run(["frames", str(fasta), "--expected-length", str(size)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == expected_lines(size)
    assert any(line["frame"] is None for line in lines)
    assert [list(line) for line in lines[:1]] == [list(KEYS)]


def test_another_chunk_size_is_refused(fasta, capsys):
    assert run(["frames", str(fasta), "--expected-length", "400"]) == 2
    assert "400" in capsys.readouterr().err


def test_a_record_that_cannot_be_scored_is_named_and_the_others_go_on(tmp_path, capsys):
    path = tmp_path / "some.fasta"
    path.write_text(">good\nATGGCA\n>digits\nATG1CA\n>empty\n\n>also_good\nGCAATG\n")
    assert run(["frames", str(path)]) == 1
    out, err = capsys.readouterr()
    assert {json.loads(line)["record"] for line in out.splitlines()} == {"good", "also_good"}
    refused = err.splitlines()
    assert len(refused) == 2
    assert "'digits'" in refused[0]
    assert "'1' at position 4" in refused[0]
    assert "'empty'" in refused[1]
