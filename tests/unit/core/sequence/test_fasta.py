"""Reading sequence files, and what is said about those that cannot be read."""

from __future__ import annotations

import bz2
import gc
import gzip
import io
import lzma
import os
import re
import sys
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro_core.sequence import records
from virnucpro_core.sequence.compressed import zstd
from virnucpro_core.sequence.fasta import SequenceFileError, read_sequences

FASTA = b">one first record\nACGT\nacgtn\n>two\nGGG\n"
RECORDS = [("one", "first record", "ACGTacgtn"), ("two", None, "GGG")]
COMPRESSORS = [gzip.compress, bz2.compress, lzma.compress, zstd.compress]


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], str]:
    def write(content: bytes, name: str = "reads.fasta") -> str:
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    return write


def refusal(path: str) -> str:
    """The message, without the path."""
    with pytest.raises(SequenceFileError) as caught:
        list(read_sequences(path))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < len(path) + 400
    return message.replace(path, "FILE")


def test_fasta_is_read_by_its_content(file) -> None:
    assert list(read_sequences(file(FASTA))) == RECORDS


def test_fastq_is_read_by_its_content(file) -> None:
    path = file(b"@one first record\nACGTacgtn\n+\nIIIIIIIII\n@two\nGGG\n+two\n@@@\n")
    assert list(read_sequences(path)) == RECORDS


@pytest.mark.parametrize("compress", COMPRESSORS)
@pytest.mark.parametrize("name", ["reads", "reads.fasta", "reads.gz", "reads.fastq.xz"])
def test_compression_and_format_are_told_by_content_not_by_name(file, compress, name: str) -> None:
    assert list(read_sequences(file(compress(FASTA), name))) == RECORDS


def test_plain_text_with_a_compressed_name(file) -> None:
    assert list(read_sequences(file(FASTA, "reads.fastq.gz"))) == RECORDS


def test_two_gzip_members_one_after_the_other(file) -> None:
    path = file(gzip.compress(FASTA[:20]) + gzip.compress(FASTA[20:]))
    assert list(read_sequences(path)) == RECORDS


@pytest.mark.parametrize(
    "content",
    [
        FASTA.replace(b"\n", b"\r\n"),
        b"\n\n" + FASTA.replace(b"\n", b"\n\n"),
        b"# a comment\n" + FASTA,
        FASTA.rstrip(b"\n"),
        FASTA.replace(b"one first record", b"one\tfirst record  "),
        FASTA.replace(b"ACGT\n", b"AC GT \n"),
    ],
    ids=["dos", "blank lines", "comment", "no last line break", "tab after the id", "blanks between letters"],
)
def test_the_habits_of_other_programs(file, content: bytes) -> None:
    assert list(read_sequences(file(content))) == RECORDS


def by_its_lines(text: str) -> list[tuple[str, str]]:
    """The records of FASTA that begins with a header: header and letters, one line after the other."""
    found: list[tuple[str, str]] = []
    for line in re.split("\r\n|\r|\n", text):
        line = line.strip().removeprefix("\ufeff")
        if line.startswith(">"):
            found.append((line[1:], ""))
        elif not line.startswith("#"):
            found[-1] = (found[-1][0], found[-1][1] + line.replace(" ", ""))
    return found


@given(
    st.lists(
        st.sampled_from(
            [
                *("\n", "\n", "\r\n", "\r", "\n>", ">", ">r x\n", "#", "\n# 1 > 2\n", "ACGT", "N" * 30),
                *(" ", "\t", "\v", "\x1c", "\x85", "\u2028", "\ufeff", "\n\ufeff", "é", "-*"),
            ]
        ),
        max_size=40,
    ),
    st.integers(1, 60),
    st.integers(20, 60),
)
def test_fasta_is_read_line_by_line_however_many_lines_come_at_once(
    parts: list[str], read: int, piece: int
) -> None:
    text = ">first\n" + "".join(parts)
    expected = by_its_lines(text)
    longest = max(map(len, re.split("\r\n|\r|\n", text)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_READ", read)
        # A line of this length comes in pieces: so do blocks, which then are not read as usual ones are.
        patch.setattr(records, "_PIECE", max(piece, longest + 2))
        assert list(records.parse_records(io.BytesIO(text.encode()))) == expected
    assert list(records.parse_records(io.BytesIO(text.encode()))) == expected


def test_headers_may_hold_letters_outside_ascii(file) -> None:
    path = file(">é Müllers Virus\nACGT\n".encode())
    assert list(read_sequences(path)) == [("é", "Müllers Virus", "ACGT")]


def test_letters_are_given_as_they_are_and_an_empty_sequence_is_a_record(file) -> None:
    assert list(read_sequences(file(b">a\nAC-5*\n>b\n>c\nA\n"))) == [
        ("a", None, "AC-5*"),
        ("b", None, ""),
        ("c", None, "A"),
    ]


def test_a_dash_reads_standard_input(monkeypatch, file) -> None:
    with Path(file(gzip.compress(FASTA))).open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert list(read_sequences("-")) == RECORDS


def test_standard_input_is_read_as_it_comes(monkeypatch) -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as stdin, os.fdopen(write_end, "wb", buffering=0) as writer:
        monkeypatch.setattr(sys, "stdin", stdin)
        writer.write(FASTA)  # the pipe stays open: waiting for more than this would hang
        assert next(read_sequences("-")) == RECORDS[0]


def test_a_stand_in_for_standard_input(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(SequenceFileError, match="standard input is empty"):
        list(read_sequences("-"))


def test_records_come_before_the_file_is_read_to_its_end(file) -> None:
    damaged = b"".join(b">r%d\n%s\n" % (n, os.urandom(400).hex().encode()) for n in range(2000))
    records = read_sequences(file(gzip.compress(damaged)[:-1000]))
    assert [record_id for record_id, _, _ in islice(records, 3)] == ["r0", "r1", "r2"]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal(str(tmp_path / "no.fasta")) == "FILE cannot be read: there is no such file; check the path"


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert refusal(str(tmp_path)) == "FILE cannot be read: it is a directory; name a file in it"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_another_user(file) -> None:
    path = file(FASTA)
    Path(path).chmod(0)
    assert refusal(path).startswith("FILE cannot be read: permission denied")


@pytest.mark.parametrize("content", [b"", gzip.compress(b"")], ids=["plain", "gzip"])
def test_an_empty_file(file, content: bytes) -> None:
    assert refusal(file(content)).startswith("FILE is empty: give a FASTA")


@pytest.mark.parametrize("content", [b"\n \n\n", b"# nothing but a comment\n"])
def test_a_file_without_records(file, content: bytes) -> None:
    assert refusal(file(content)).startswith("FILE has no records")


@pytest.mark.parametrize(
    "content",
    [
        b"hello\n>a\nACGT\n",
        b"\x7fELF\x02\x01\0\0\0",
        b"PK\x03\x04",
        bytes(range(256)),
        b"{}",
        b"\0" * 100_000,
    ],
)
def test_garbage_and_binary_files(file, content: bytes) -> None:
    message = refusal(file(content))
    assert message.startswith("FILE is neither FASTA nor FASTQ: it starts with ")
    assert "give a file of nucleotide sequences" in message


def test_binary_behind_a_first_record_is_refused(file) -> None:
    message = refusal(file(FASTA * 2000 + b"\xff\xfe\x00\x81"))
    assert message.startswith(
        "FILE is not text in UTF-8: record 4000 ('two') has the byte 0xff in its sequence"
    )


@pytest.mark.parametrize("compress", COMPRESSORS)
def test_truncated_compressed_data_is_refused(file, compress) -> None:
    assert "truncated" in refusal(file(compress(FASTA * 500)[:-10]))


def test_damaged_compressed_data_is_refused(file) -> None:
    data = bytearray(gzip.compress(os.urandom(5000).hex().encode()))
    data[len(data) // 2] ^= 0xFF
    assert "compressed data is damaged" in refusal(file(bytes(data).replace(b"\n", b"\n")))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"@one\nACGT\n+\nII\n", "FILE ends in the middle of record 1 ('one'): it is truncated"),
        (b"@one\nACGT\n", "FILE ends in the middle of record 1 ('one'): it is truncated"),
        (b"@one\nACGT\n+\nIIII\n@two\n", "FILE ends in the middle of record 2 ('two'): it is truncated"),
        (b"@one\nACGT\n+\nIIIII\n", "FILE record 1 ('one') is damaged: it has 4 letters but 5 qualities"),
        (b"@one\nACGT\n+\nII\n@two\nA\n+\nI\n", "FILE record 1 ('one') is damaged: it has 4 letters but 2"),
        (
            b"@one\nACGT\n+two\nIIII\n",
            "FILE record 1 ('one') is damaged: its third line names another record",
        ),
        (b"@one\nACGT\nIIII\n+\n", "FILE is multi-line FASTQ, from record 1 ('one') on"),
        (
            b"@one\nACGT\n=II5\n",
            "FILE record 1 ('one') is damaged: its third line begins with '=II5' instead of +",
        ),
        (
            b"@one\nACGT\n+\nIIII\n>two\nACGT\n",
            "FILE is damaged after record 1: the next line begins with '>two'",
        ),
    ],
)
def test_damaged_fastq_is_refused(file, content: bytes, expected: str) -> None:
    assert refusal(file(content)).startswith(expected)


WORD = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
NAMES = st.lists(WORD, min_size=1, max_size=5)
LINE_ENDS = st.sampled_from(["\n", "\r\n"])
BLANK_LINES = st.sampled_from(["", "\n", "\n\n", " \n", "\r\n\t\r\n"])
BOMS = st.sampled_from([b"", b"\xef\xbb\xbf"])


def fastq(name: str, sequence: str, line_end: str, width: int) -> str:
    """A record whose sequence and qualities are `width` letters to the line."""
    parts = [sequence[at : at + width] for at in range(0, len(sequence), width)]
    return line_end.join(["@" + name, *parts, "+", *("I" * len(part) for part in parts), ""])


@given(NAMES, LINE_ENDS, BLANK_LINES, BOMS, st.booleans())
def test_headers_in_utf8_byte_order_marks_line_ends_and_blank_lines(
    tmp_path_factory, names: list[str], line_end: str, blank: str, bom: bytes, as_fastq: bool
) -> None:
    parts = [
        fastq(name, "ACGTN", line_end, 80) if as_fastq else f">{name}{line_end}ACG{line_end}TN{line_end}"
        for name in names
    ]
    path = tmp_path_factory.mktemp("case") / "reads"
    # Each file with its mark, joined.
    path.write_bytes(b"".join(bom + (blank + part).encode() for part in parts) + blank.encode())
    assert list(read_sequences(str(path))) == [(name, None, "ACGTN") for name in names]


@given(
    st.integers(0, 3),
    st.sampled_from([b"\xfc", b"\x80", b"\xed\xa0\x80", b"\xc3(", b"\xff\xfe"]),
    st.booleans(),
    st.booleans(),
)
def test_bytes_that_are_not_utf8_are_named_with_their_record(
    tmp_path_factory, before: int, byte: bytes, in_header: bool, as_fastq: bool
) -> None:
    header, letters = (b"na" + byte + b"me", b"ACGT") if in_header else (b"name", b"AC" + byte)
    good, bad = (b">%s\n%s\n", b">%s\n%s\n")
    if as_fastq:
        good, bad = (
            b"@%s\n%s\n+\nIIII\n",
            b"@%s\n%s\n+\n" + b"I" * (4 if in_header else 2 + len(byte)) + b"\n",
        )
    content = b"".join(good % (b"r%d" % number, b"ACGT") for number in range(before)) + bad % (
        header,
        letters,
    )
    path = tmp_path_factory.mktemp("case") / "reads"
    path.write_bytes(content + good % (b"last", b"ACGT"))
    message = refusal(str(path))
    assert message.startswith(f"FILE is not text in UTF-8: record {before + 1} ('na")
    assert f"has the byte 0x{byte[:1].hex()} in its {'header' if in_header else 'sequence'}" in message
    message.encode("ascii")


@given(st.lists(st.integers(1, 300), min_size=1, max_size=5), st.integers(1, 100))
def test_fastq_with_several_lines_a_sequence_is_named_as_such(
    tmp_path_factory, lengths: list[int], width: int
) -> None:
    path = tmp_path_factory.mktemp("case") / "reads"
    path.write_text("".join(fastq(f"r{n}", "A" * length, "\n", width) for n, length in enumerate(lengths)))
    wrapped = [number for number, length in enumerate(lengths, start=1) if length > width]
    if wrapped:
        expected = f"FILE is multi-line FASTQ, from record {wrapped[0]} ('r{wrapped[0] - 1}') on"
        assert refusal(str(path)).startswith(expected)
    else:
        assert len(list(read_sequences(str(path)))) == len(lengths)


@given(
    st.lists(
        st.sampled_from(
            [
                *(
                    "@r\nAC\n+\nII\n",
                    "@r\nAC GT\n+r\nIIIII\n",
                    "@r\n\n+\n\n",
                    "\n",
                    " \n",
                    "@r\n",
                    "AC\n",
                    "+\n",
                ),
                *(
                    "+x\n",
                    "II\n",
                    "@@\n",
                    "@r x",
                    "AC",
                    "\r\n",
                    "# x\n",
                    ">r\nAC\n",
                    "-\n",
                    "\x1c",
                    "@\nA\n+\nI\n",
                ),
            ]
        ),
        max_size=20,
    ),
    st.integers(1, 40),
)
def test_fastq_is_read_the_same_by_fours_of_lines_and_line_by_line(parts: list[str], read: int) -> None:
    """A letter outside ASCII lets the lines be looked at one by one: records and error are the same with it."""

    def found(first: str) -> tuple[list[tuple[str, str]], str | None]:
        before: list[tuple[str, str]] = []
        content = io.BytesIO(f"@{first}\nA\n+\nI\n{''.join(parts)}".encode())
        try:
            before.extend(records.parse_records(content))
        except records.MalformedRecords as error:
            return before[1:], str(error)
        return before[1:], None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_READ", read)
        assert found("e") == found("é")
    assert found("e") == found("é")


def test_qualities_on_several_lines(file) -> None:
    path = file(b"@one\nACGTACGT\n+\nIIII\nIIII\n@two\nAC\n+\nII\n")
    assert refusal(path).startswith("FILE is multi-line FASTQ, from record 1 ('one') on")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16(file, encoding: str) -> None:
    message = refusal(file(FASTA.decode().encode(encoding)))
    assert message.startswith(("FILE is text in UTF-16: convert it", "FILE is neither FASTA nor FASTQ"))


def test_what_is_opened_is_closed(file) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        list(read_sequences(file(FASTA)))
        next(read_sequences(file(gzip.compress(FASTA))))
        refusal(file(b"nothing"))
        gc.collect()
    assert not caught


@pytest.mark.parametrize("header", [b">", b"> ", b">\t"])
def test_a_record_without_a_name_is_refused(file, header: bytes) -> None:
    assert refusal(file(FASTA + header + b"\nACGT\n")).startswith("FILE: record 3 has no name")
