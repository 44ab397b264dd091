"""BAM files: reads as samtools gives them, and every kind of damage as an error in one line."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro_core.sequence.bam import BAM_MAGIC, parse_bam
from virnucpro_core.sequence.fasta import NoRecords, SequenceFileError, read_sequences
from virnucpro_core.sequence.records import MalformedRecords

DATA = Path(__file__).parents[4] / "tests" / "data"
READS = [
    ("pair_1", "ACGTACGTA"),
    ("pair_2", "TTGGCCAA"),
    ("single", "ACMGRSVTWYHKDBN"),
    ("empty", ""),
    ("mapped", "YGGTT"),
    ("orphan_2", "GATTACA"),
    ("odd", "ACG"),
]
"""What `samtools fasta -N` prints of reads.bam, with `_` for its `/`."""
END = gzip.compress(b"")
"""The empty member that ends a file."""
LETTERS = "=ACMGRSVTWYHKDBN"


def header(text: bytes = b"@HD\tVN:1.6\n", references: tuple[bytes, ...] = (b"chr1\0",)) -> bytes:
    listed = b"".join(struct.pack("<i", len(name)) + name + struct.pack("<i", 9) for name in references)
    return BAM_MAGIC + struct.pack("<i", len(text)) + text + struct.pack("<i", len(references)) + listed


def alignment(name: bytes, flag: int, letters: str, operations: int = 0, tags: bytes = b"") -> bytes:
    codes = [LETTERS.index(letter) for letter in letters] + [0] * (len(letters) % 2)
    packed = bytes(high << 4 | low for high, low in zip(codes[::2], codes[1::2], strict=True))
    fixed = struct.pack(
        "<iiBBHHHiiii", -1, -1, len(name) + 1, 0, 4680, operations, flag, len(letters), -1, -1, 0
    )
    body = fixed + name + b"\0" + bytes(4 * operations) + packed + b"\xff" * len(letters) + tags
    return struct.pack("<i", len(body)) + body


def written(path: Path, content: bytes, member: int = 1 << 16, end: bytes = END) -> str:
    parts = [content[start : start + member] for start in range(0, len(content), member)]
    path.write_bytes(b"".join(map(gzip.compress, parts)) + end)
    return str(path)


def refusal(path: Path) -> str:
    with pytest.raises(SequenceFileError) as caught:
        list(read_sequences(str(path)))
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path} ")


def test_reads_come_as_samtools_gives_them() -> None:
    found = list(read_sequences(str(DATA / "reads.bam")))
    assert [(name, letters) for name, _, letters in found] == READS
    assert {description for _, description, _ in found} == {None}


def test_a_header_alone_is_a_file_without_records() -> None:
    with pytest.raises(NoRecords, match="has no records"):
        list(read_sequences(str(DATA / "none.bam")))


@given(
    reads=st.lists(
        st.tuples(
            st.text("ACGTNRYKM", max_size=9),
            st.integers(0, 3),
            st.binary(max_size=9),
            st.sampled_from([(0x4, ""), (77, "_1"), (141, "_2"), (0x5, ""), (0xC5, "")]),
        ),
        max_size=4,
    ),
    member=st.integers(1, 90),
)
def test_reads_of_any_shape_in_members_of_any_size(reads, member, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("bam") / "x.bam"
    content = header() + b"".join(
        alignment(f"r{number}".encode(), flag, letters, operations, tags)
        for number, (letters, operations, tags, (flag, _)) in enumerate(reads)
    )
    name = written(path, content, member)
    expected = [
        (f"r{number}{mate}", None, letters) for number, (letters, _, _, (_, mate)) in enumerate(reads)
    ]
    if not expected:
        with pytest.raises(NoRecords):
            list(read_sequences(name))
    else:
        assert list(read_sequences(name)) == expected


def test_a_file_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = (DATA / "reads.bam").read_bytes()
    path = tmp_path / "cut.bam"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert any(word in refusal(path) for word in ("truncated", "is empty", "has no records")), length


def test_a_file_without_its_last_empty_block_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.bam"
    written(path, header() + alignment(b"a", 4, "ACGT"), end=b"")
    assert refusal(path).startswith("ends without the empty block that ends a BAM file: it is truncated")


def test_content_that_is_cut_within_a_record_is_refused_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "x.bam"
    content = header() + alignment(b"a", 4, "ACGT") + alignment(b"b", 4, "ACGT")
    for length in range(len(header()) + len(alignment(b"a", 4, "ACGT")) + 1, len(content)):
        written(path, content[:length])
        assert refusal(path).startswith("is a BAM file that ends in the middle of record 2: it is truncated")
    for length in range(len(BAM_MAGIC), len(header())):
        written(path, content[:length])
        assert refusal(path).startswith("is a BAM file that ends in the middle of its header")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (struct.pack("<i", -1), "a length in its header is negative"),
        (header()[4:] + struct.pack("<i", 31) + bytes(31), "of record 1 it says that it has 31 bytes"),
        (header()[4:] + struct.pack("<i", -5), "of record 1 it says that it has -5 bytes"),
        (
            header()[4:] + struct.pack("<iiiBBHHHiiii", 32, -1, -1, 9, 0, 0, 0, 4, 0, -1, -1, 0),
            "lengths do not fit its size",
        ),
        (
            header()[4:] + struct.pack("<iiiBBHHHiiii", 34, -1, -1, 2, 0, 0, 0, 4, -7, -1, -1, 0) + b"a\0",
            "lengths do not fit its size",
        ),
        (
            header()[4:] + struct.pack("<iiiBBHHHiiii", 34, -1, -1, 2, 0, 0, 0, 4, 0, -1, -1, 0) + b"ab",
            "its name is not ASCII that ends in a zero byte",
        ),
    ],
)
def test_damage_is_named(content: bytes, says: str) -> None:
    with pytest.raises(MalformedRecords, match=says):
        list(parse_bam(io.BytesIO(content)))


def test_a_length_is_not_believed_before_its_bytes_are_there() -> None:
    """Two gigabytes that are not in the file: nothing of that size is made."""

    class Small(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size is not None
            assert 0 <= size <= 1 << 20
            return super().read(size)

    for content in (struct.pack("<i", 2**31 - 1), header()[4:] + struct.pack("<i", 2**31 - 1)):
        with pytest.raises(MalformedRecords, match="truncated"):
            list(parse_bam(Small(content)))


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_any_byte_that_is_wrong_gives_reads_or_one_error(place: int, byte: int) -> None:
    content = bytearray(gzip.decompress((DATA / "reads.bam").read_bytes())[4:])
    content[place % len(content)] = byte
    try:
        for _, sequence in parse_bam(io.BytesIO(bytes(content))):
            assert set(sequence) <= set(LETTERS)
    except MalformedRecords:
        pass


def test_what_only_begins_like_bam_is_refused_like_any_other_text(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"BAMBOO forest is not a sequence")
    assert refusal(path).startswith("is neither FASTA nor FASTQ: it starts with b'BAMBOO forest is not")
