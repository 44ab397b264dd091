"""Compressed files, whole and damaged: every record is read, or the file is refused; never fewer without a word."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import shutil
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumer.cli.app import run
from virnucpro_core.errors import SequenceFileWarning
from virnucpro_core.sequence import compressed
from virnucpro_core.sequence.compressed import CompressedDataError, decompressed, zstd
from virnucpro_core.sequence.fasta import SequenceFileError, read_sequences

ROOT = Path(__file__).parents[2]
_CHECKED = {zstd.CompressionParameter.checksum_flag: 1}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": lambda data: bz2.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zstd": lambda data: zstd.compress(data, options=_CHECKED),
}
PADDING = {"gzip": 1, "bzip2": 0, "xz": 4, "zstd": 0}
PASSED_OVER = ("gzip", "bzip2")
"""Formats whose own tool passes over other bytes behind the last stream."""
HEADS = {"gzip": b"\x1f\x8b", "bzip2": b"BZh", "xz": b"\xfd7zXZ\x00", "zstd": b"\x28\xb5\x2f\xfd"}

LETTERS = b"ACGT" * 64

seen_often = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@dataclass(frozen=True)
class Archive:
    """Several compressed streams in one file."""

    form: str
    content: bytes
    data: bytes
    ends: tuple[int, ...]
    """Where the data could stop and still be a whole file: after a stream, or legal padding."""
    end_of_streams: int
    """Where the last stream ends; only padding follows."""


@st.composite
def archives(draw: st.DrawFn, forms: tuple[str, ...] = tuple(COMPRESS)) -> Archive:
    form = draw(st.sampled_from(forms))
    letters = random.Random(draw(st.integers(0, 2**32)))
    sizes = draw(st.lists(st.sampled_from([0, 1, 60, 3000, 3000, 70_000]), min_size=1, max_size=4))
    content, data, ends = b"", b"", [0]
    for number, size in enumerate(sizes):
        part = b">r%d\n%s\n" % (number, letters.randbytes(size).translate(LETTERS))
        content += part
        data += COMPRESS[form](part)
        ends.append(end_of_streams := len(data))
        for _ in range(draw(st.integers(0, 3)) if PADDING[form] else 0):
            data += bytes(PADDING[form])
            ends.append(len(data))
    return Archive(form, content, data, tuple(ends), end_of_streams)


class Read(NamedTuple):
    content: bytes
    warnings: list[str]


def read(data: bytes) -> Read:
    """
    Raises:
        CompressedDataError: the data is refused.
    """
    told: list[str] = []
    with decompressed(io.BytesIO(data), told.append) as file:
        return Read(file.read(), told)


def refused(data: bytes) -> bool:
    try:
        read(data)
    except CompressedDataError as error:
        message = str(error)
    else:
        return False
    assert "\n" not in message
    assert "download it again" in message
    return True


@seen_often
@given(archives())
def test_all_streams_and_padding_are_read(archive: Archive) -> None:
    assert read(archive.data) == (archive.content, [])


class Dripping(io.BytesIO):
    """Gives at most so many bytes at once, as a pipe may."""

    most = 1

    def read1(self, size: int | None = -1, /) -> bytes:
        return super().read1(self.most if size is None or size < 0 else min(size, self.most))


def gzip_with_all_fields(data: bytes) -> bytes:
    """A member whose head has what one may have: text flag, extra field as of BGZF, name, comment, its own checksum."""
    head = b"\x1f\x8b\x08\x1f" + bytes(5) + b"\x03" + b"\x06\x00BC\x02\x00\x1b\x00" + b"name\x00comment\x00"
    body = zlib.compress(data, wbits=-15)
    return b"".join(
        (
            head + (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little") + body,
            zlib.crc32(data).to_bytes(4, "little") + len(data).to_bytes(4, "little"),
        )
    )


@pytest.mark.parametrize("most", [1, 2, 7, 64])
@pytest.mark.parametrize("form", [*COMPRESS, "gzip with all fields"])
def test_the_content_does_not_depend_on_how_many_bytes_come_at_once(form: str, most: int) -> None:
    compress = COMPRESS.get(form, gzip_with_all_fields)
    parts = [b">a\nACGT\n" * 500, b"", b">b\nGGG\n"]
    file = Dripping(b"".join(map(compress, parts)))
    file.most = most
    told: list[str] = []
    with decompressed(file, told.append) as content:
        assert content.read() == b"".join(parts)
    assert not told


@pytest.mark.parametrize("damage", ["none", "a byte", "the end"])
def test_gzip_is_read_as_well_where_zlib_ng_is_not_installed(damage: str, tmp_path: Path) -> None:
    data = bytearray(gzip.compress(b">a\n" + random.Random(1).randbytes(3000).translate(LETTERS)) * 2)
    if damage == "a byte":
        data[2000] ^= 0xFF
    elif damage == "the end":
        del data[-100:]
    path = tmp_path / "reads"
    path.write_bytes(data)
    program = (
        "import sys; sys.modules['zlib_ng'] = None; from tests.property.test_compressed_properties import as_read; "
        "from virnucpro_core.sequence import compressed; assert compressed.inflate.__name__ == 'zlib'; "
        "print(as_read(sys.argv[1]))"
    )
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=True)
    assert compressed.inflate.__name__ == "zlib_ng.zlib_ng"
    assert done.stdout == f"{as_read(str(path))}\n"
    assert ("damaged" in done.stdout, "truncated" in done.stdout) == (
        damage == "a byte",
        damage == "the end",
    )


def as_read(path: str) -> list[str]:
    """The ids and letters of a file, and the error at its end."""
    found = []
    try:
        for record_id, _, letters in read_sequences(path):
            found.append(f"{record_id} {letters}")
    except SequenceFileError as error:
        found.append(str(error))
    return found


@seen_often
@given(archives(), st.data())
def test_one_wrong_byte_loses_nothing_without_a_word(archive: Archive, draw: st.DataObject) -> None:
    # The heads of streams are where a reader may mistake a stream for trailing bytes.
    near_heads = [end + offset for end in archive.ends for offset in range(12)]
    at = draw.draw(st.one_of(st.integers(0, len(archive.data) - 1), st.sampled_from(near_heads)))
    at = min(at, len(archive.data) - 1)
    data = bytearray(archive.data)
    data[at] ^= draw.draw(st.integers(1, 255))
    if not data.startswith(HEADS[archive.form]):
        return  # the format is not recognized: not FASTA either, as other tests show
    if refused(bytes(data)):
        return
    content, told = read(bytes(data))
    assert content == archive.content
    if told:
        assert at >= archive.end_of_streams, "only padding at the end is passed over"


@pytest.mark.parametrize("form", COMPRESS)
@pytest.mark.parametrize("bits", [0x01, 0x20, 0xFF])
def test_a_wrong_byte_in_the_head_of_a_later_stream_is_refused(form: str, bits: int) -> None:
    first, second = COMPRESS[form](b">a\nACGT\n"), COMPRESS[form](b">b\nGGG\n")
    for at in range(len(HEADS[form])):
        damaged = bytearray(second)
        damaged[at] ^= bits
        assert refused(first + damaged), at


@seen_often
@given(archives(), st.data())
def test_a_truncated_file_is_refused_unless_it_ends_between_streams(
    archive: Archive, draw: st.DataObject
) -> None:
    near_ends = [max(1, end + offset) for end in archive.ends for offset in range(-3, 8)]
    size = draw.draw(st.one_of(st.integers(1, len(archive.data) - 1), st.sampled_from(near_ends)))
    data = archive.data[:size]
    if not data.startswith(HEADS[archive.form]):
        return
    assert refused(data) == (len(data) not in archive.ends)


@seen_often
@given(archives(), st.binary(min_size=1, max_size=2000).filter(lambda rest: rest.strip(b"\0")))
def test_other_bytes_behind_the_streams_are_said_or_refused(archive: Archive, rest: bytes) -> None:
    if archive.form not in PASSED_OVER:
        assert refused(archive.data + rest)
        return
    if refused(archive.data + rest):
        # A stream may be among them, or they are a part of one.
        head = HEADS[archive.form]
        assert head in rest or any(byte in rest.lstrip(b"\0")[:3] for byte in head)
        return
    content, (line,) = read(archive.data + rest)
    assert content == archive.content
    assert "bytes after its compressed data, which are passed over" in line


@seen_often
@given(archives(PASSED_OVER), st.integers(1, 200_000), archives(PASSED_OVER))
def test_a_stream_behind_other_bytes_is_never_lost(first: Archive, size: int, second: Archive) -> None:
    between = b"x" * size
    behind = COMPRESS[first.form](second.content)
    assert refused(first.data + between + behind)


@seen_often
@given(archives(("xz",)), st.integers(1, 50).filter(lambda count: count % 4))
def test_padding_of_xz_is_in_multiples_of_four(archive: Archive, count: int) -> None:
    whole = archive.ends[1]
    assert refused(archive.data[:whole] + bytes(count))
    assert refused(archive.data[:whole] + bytes(count) + archive.data[:whole])


@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("form", COMPRESS)
@given(draw=st.data())
def test_the_formats_own_tool_reads_the_same(form: str, draw: st.DataObject) -> None:
    tool = shutil.which(form)
    if tool is None:
        pytest.skip(f"{form} is not installed")
    archive = draw.draw(archives((form,)))
    data = bytearray(archive.data)
    match draw.draw(st.sampled_from(["whole", "damaged", "truncated", "trailing"])):
        case "damaged":
            data[draw.draw(st.integers(8, len(data) - 1))] ^= draw.draw(st.integers(1, 255))
        case "truncated":
            del data[draw.draw(st.integers(8, len(data))) :]
        case "trailing":
            data += draw.draw(st.binary(min_size=1, max_size=100))
    done = subprocess.run([tool, "-dc"], input=bytes(data), capture_output=True, timeout=60, check=False)
    if refused(bytes(data)):
        # gzip and bzip2 pass over a later stream with a damaged head; here it is refused.
        assert done.returncode != 0 or b"garbage" in done.stderr
        return
    content, told = read(bytes(data))
    # gzip does not read a member behind padding; here it is read.
    assert content == done.stdout or (form == "gzip" and content.startswith(done.stdout) and done.returncode)
    if content == done.stdout:
        # A single byte behind the last member is to gzip a head that is cut off.
        assert bool(told) == (b"garbage" in done.stderr or (form == "gzip" and done.returncode == 1))


def test_zstandard_frames_that_are_skipped_hold_no_records() -> None:
    skipped = b"\x53\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
    frame = COMPRESS["zstd"](b">a\nACGT\n")
    assert read(skipped + frame + skipped + frame) == (b">a\nACGT\n" * 2, [])


@pytest.mark.parametrize("form", COMPRESS)
def test_a_small_file_that_holds_much_is_read_in_bounded_memory(form: str) -> None:
    size = 40 << 20
    data = COMPRESS[form](bytes(size))
    assert len(data) < size / 500
    total = 0
    tracemalloc.start()
    try:
        with decompressed(io.BytesIO(data), lambda line: None) as file:
            while chunk := file.read1():
                total += len(chunk)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == size
    assert most < 10 << 20


@pytest.mark.parametrize(
    "data",
    [
        lzma.compress(b">a\nACGT\n", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1536 << 20}]),
        b"\x28\xb5\x2f\xfd\x00\xb8" + bytes(100),
    ],
    ids=["xz", "zstd"],
)
def test_a_window_larger_than_the_memory_for_it_is_refused_with_the_cure(data: bytes) -> None:
    with pytest.raises(CompressedDataError, match=r"unusually large window .*decompress it first"):
        read(data)


@pytest.mark.parametrize("form", COMPRESS)
@pytest.mark.parametrize("command", ["frames", "predict", "publish", "embed", "evaluate"])
def test_every_command_refuses_a_damaged_later_stream(
    form: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "reads"
    parts = [COMPRESS[form](b">%s\n%s\n" % (name, b"ACGTTGCA" * 60)) for name in (b"a", b"b")]
    damaged = bytearray(parts[1])
    damaged[len(damaged) // 2] ^= 0xFF
    path.write_bytes(parts[0] + damaged)
    (tmp_path / "labels.tsv").write_text("id\tlabel\na\tvirus\nb\tvirus\n")
    options = {
        "publish": ["--bootstrap", "127.0.0.1:1"],
        "embed": ["--output", str(tmp_path / "features")],
        "evaluate": ["--labels", str(tmp_path / "labels.tsv")],
    }.get(command, [])
    assert run([command, str(path), *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"virnucpro: error: {path} cannot be read: its compressed data is damaged (")
    assert not (tmp_path / "features").exists()


@pytest.mark.parametrize("form", PASSED_OVER)
def test_bytes_that_are_passed_over_are_one_warning(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "reads"
    path.write_bytes(COMPRESS[form](b">a\nACGT\n") + b"\nsomething else")
    assert run(["frames", str(path)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"virnucpro: warning: {path} has 15 bytes after its compressed data")


def test_records_of_a_damaged_file_come_before_its_error(tmp_path: Path) -> None:
    path = tmp_path / "reads"
    path.write_bytes(bz2.compress(b">a\nACGT\n" * 50_000) + bz2.compress(b">b\nAC\n")[:-3])
    records = read_sequences(str(path))
    assert next(records) == ("a", None, "ACGT")
    with pytest.raises(SequenceFileError, match="truncated"):
        list(records)


def test_a_whole_file_warns_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "reads"
    path.write_bytes(gzip.compress(b">a\nACGT\n") + bytes(512))
    with warnings.catch_warnings():
        warnings.simplefilter("error", SequenceFileWarning)
        assert list(read_sequences(str(path))) == [("a", None, "ACGT")]
