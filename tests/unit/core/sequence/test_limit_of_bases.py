"""The limit of bases is met while a file is read: neither a record nor a line has to fit into memory."""

from __future__ import annotations

import gzip
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnucpro_core.sequence import records
from virnucpro_core.sequence.compressed import zstd
from virnucpro_core.sequence.fasta import SequenceFileError, read_sequences

LETTERS = 64 * 2**20
SHAPES: dict[str, Callable[[bytes], bytes]] = {
    "one line": lambda letters: b">big\n" + letters + b"\n>small\nACGT\n",
    "no line end": lambda letters: b">small\nACGT\n>big\n" + letters,
    "blanks between": lambda letters: b">big\n" + letters.replace(b"AA", b"A ") + b"\n>small\nACGT\n",
    "blanks alone": lambda letters: b">big\nA" + b" " * len(letters) + letters[:4096] + b"\n>small\nACGT\n",
    "lines": lambda letters: b">big\n" + (letters[:99] + b"\n") * (len(letters) // 99) + b">small\nACGT\n",
    "FASTQ": lambda letters: b"@big\n" + letters + b"\n+\n" + letters + b"\n@small\nACGT\n+\nIIII\n",
}


@pytest.mark.parametrize(
    "compress", [lambda data: gzip.compress(data, 1), lambda data: zstd.compress(data, 1)]
)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_record_that_unpacks_to_more_than_memory_is_cut(shape, compress, tmp_path) -> None:
    path = tmp_path / "reads.fa"
    path.write_bytes(compress(SHAPES[shape](b"A" * LETTERS)))
    assert path.stat().st_size < LETTERS // 100
    tracemalloc.start()
    try:
        found = {name: len(sequence) for name, _, sequence in read_sequences(str(path), 1000)}
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == {"big": 1001, "small": 4}
    assert peak < LETTERS // 4


@pytest.mark.parametrize("start", [b">", b"@"])
def test_a_header_without_end_is_refused(start, tmp_path) -> None:
    path = tmp_path / "reads.fa"
    path.write_bytes(lzma.compress(start + b"A" * LETTERS, preset=0))
    tracemalloc.start()
    try:
        with pytest.raises(SequenceFileError, match="record 1 has a header of over 1,048,576 letters"):
            list(read_sequences(str(path)))
        assert tracemalloc.get_traced_memory()[1] < LETTERS // 4
    finally:
        tracemalloc.stop()


lines = st.text("ACGT >#", max_size=30).filter(lambda line: not line.strip().startswith(">"))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(lines, max_size=6), min_size=1, max_size=4),
    st.integers(0, 40),
    st.integers(5, 12),
    st.integers(1, 12),
)
def test_pieces_and_limit_change_no_record_but_its_length(
    tmp_path_factory, drawn: list[list[str]], limit: int, piece: int, read: int
) -> None:
    """Whatever the size of the pieces, the same records come, each cut after one base more than the limit."""
    path: Path = tmp_path_factory.mktemp("reads") / "reads.fa"
    path.write_text(
        "".join(f">r{n}\n" + "".join(f"{line}\n" for line in body) for n, body in enumerate(drawn))
    )
    expected = list(read_sequences(str(path)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_PIECE", piece)
        patch.setattr(records, "_READ", read)
        found = list(read_sequences(str(path), limit))
    assert [name for name, _, _ in found] == [name for name, _, _ in expected]
    for (_, _, cut), (_, _, all_of_it) in zip(found, expected, strict=True):
        assert cut == all_of_it[: limit + 1]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.text("ACGT ", max_size=30), min_size=1, max_size=4),
    st.integers(0, 40),
    st.integers(5, 12),
    st.integers(1, 12),
)
def test_pieces_change_no_fastq(
    tmp_path_factory, drawn: list[str], limit: int, piece: int, read: int
) -> None:
    path: Path = tmp_path_factory.mktemp("reads") / "reads.fq"
    path.write_text("".join(f"@r{n}\n{line}\n+\n{'I' * len(line)}\n" for n, line in enumerate(drawn)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_PIECE", piece)
        patch.setattr(records, "_READ", read)
        found = list(read_sequences(str(path), limit))
    assert found == [(f"r{n}", None, line.replace(" ", "")[: limit + 1]) for n, line in enumerate(drawn)]
