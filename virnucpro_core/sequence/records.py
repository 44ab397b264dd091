"""Parse FASTA and FASTQ: bytes in, one record at a time out, with errors that name the record.

The text comes in blocks of whole lines. Lines are looked at one by one only where a block of FASTA holds something
unusual: most files hold nothing but headers and letters, and are read twice as fast without.
"""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Iterator
from io import IncrementalNewlineDecoder, StringIO
from itertools import chain, islice, repeat
from typing import NamedTuple, Protocol

_BOM = "\ufeff"
_READ = 1 << 16
"""Bytes that are read at once, at most."""
_START_LETTERS = 4096  # a binary file can be one endless line: its start is enough to refuse it
_PIECE = 1 << 20
"""Letters of a line from which on it comes in pieces: a line may be as long as the file."""
_SHOWN_LETTERS = 60
_LETTERS = re.compile(r"[A-Za-z*.\- ]+")


class MalformedRecords(ValueError):
    """Text that is not FASTA or FASTQ; the message is one line, cause and cure, to follow the file's name."""


Record = tuple[str, str]
"""The header without its > or @, and the letters of the sequence without line breaks, perhaps with blanks."""


class Content(Protocol):
    """A file that is open for reading."""

    def read1(self, size: int, /) -> bytes:
        """The next bytes, at most `size` and at least one, as they come; b"" at the end."""


def parse_records(content: Content, max_letters: int = sys.maxsize) -> Iterator[Record]:
    """The records of a FASTA or FASTQ file; the format is detected from the first letter that is not blank.

    FASTA: blank lines and lines that begin with # are skipped. FASTQ: four lines a record, blank lines between
    records are skipped. Byte order marks are skipped. A line ends with a line feed, a carriage return, or both.

    Args:
        max_letters: of a sequence that has more, blanks not counted, some more than these are given and the rest is
            passed over: memory is bounded by this and a few MB, whatever the file unpacks to.
        content: in UTF-8; bytes that are not are reported with their record.

    Raises:
        MalformedRecords: while iterating.
    """
    blocks = _blocks(content)
    line, others = _first_lines(blocks)
    letters = line.lstrip()
    if not letters:
        return
    if letters[0] not in ">#@" or letters[1:2] == "\0":
        raise MalformedRecords(not_sequences(letters[:_START_LETTERS]))
    blocks = chain([line + others], blocks)
    if letters[0] != "@":
        yield from _Fasta(blocks, max_letters).records()
        return
    yield from _fastq(blocks, max_letters)


def _blocks(content: Content) -> Iterator[str]:
    """The text, as it comes: whole lines, or a piece of a line of `_PIECE` letters or more, or the last line.

    Line ends are line feeds, of which the last line may have none. A byte that is not UTF-8 is a lone surrogate.
    """
    decoder = IncrementalNewlineDecoder(
        codecs.getincrementaldecoder("utf-8")("surrogateescape"), translate=True
    )
    rest = ""
    while data := content.read1(_READ):
        text = rest + decoder.decode(data)
        end = text.rfind("\n") + 1
        if end:
            yield text[:end]
        rest = text[end:]
        if len(rest) >= _PIECE:
            yield rest
            rest = ""
    rest += decoder.decode(b"", True)
    if rest:
        yield rest


def _first_lines(blocks: Iterator[str]) -> tuple[str, str]:
    """The first line that is not blank, without a byte order mark, and the others of its block; "" if there is none."""
    for block in blocks:
        lines = StringIO(block)
        for line in lines:
            if (line := line.removeprefix(_BOM)).strip():
                return line, lines.read()
    return "", ""


class _Fasta:
    """The records of FASTA.

    Args:
        blocks: as of `_blocks`, the first of them from the first letter on.
        max_letters: as of `parse_records`.
    """

    def __init__(self, blocks: Iterator[str], max_letters: int) -> None:
        self._blocks, self._max_letters = blocks, max_letters
        # The record under way: its number, its header if there is one, and its letters so far.
        self._number = 0
        self._header: str | None = None
        self._parts: list[str] = []
        self._letters = 0

    def records(self) -> Iterator[Record]:
        for block in self._blocks:
            # Behind each > stand a header and its letters; before the first one, more letters of the record under way.
            before, *sections = block.split(">")
            if not self._is_usual(block, before, sections):
                yield from self._read_lines(self._lines_from(block))
                continue
            if before:
                self._keep(_joined(before))
            if not sections:
                continue
            if self._header is not None:
                yield self._finished()
            last = sections.pop()
            for section in sections:
                header, _, letters = section.partition("\n")
                self._number += 1
                yield header.rstrip(), _joined(letters)
            header, _, letters = last.partition("\n")
            self._begin(header.rstrip())
            self._keep(_joined(letters))
        if self._header is not None:
            yield self._finished()

    def _is_usual(self, block: str, before: str, sections: list[str]) -> bool:
        """Whether a block is whole lines of ASCII, not over-long, without comments, and each > in it begins a line."""
        return (
            block.isascii()
            and "#" not in block
            and len(block) < _PIECE
            and (not before or self._header is not None)
            and all(map(str.endswith, (before or "\n", *sections), repeat("\n")))
        )

    def _read_lines(self, lines: Iterator[str]) -> Iterator[Record]:
        """Take lines one by one; gives the records that end with them. A long line is taken to its end."""
        for raw in lines:
            line = raw.strip().removeprefix(_BOM)  # files that were joined have one in the middle
            if line.startswith(">"):
                if self._header is not None:
                    yield self._finished()
                self._begin(line[1:])
                if len(raw) >= _PIECE:
                    raise _endless_header(self._number)
                continue
            is_comment = line.startswith("#")
            if line and not is_comment:
                if self._header is None:
                    raise MalformedRecords(
                        f"has {_shown(line[:20])} before its first header: a record begins with >, give a file of "
                        "nucleotide sequences"
                    )
                if len(raw) >= _PIECE:  # what stands at its end may be in the middle of the line
                    line = raw.lstrip().removeprefix(_BOM).removesuffix("\n")
                self._keep(line.replace(" ", ""))
            if raw[-1] != "\n":  # a long line, or the last one
                for piece in _rest_of_line(lines):
                    if not is_comment:
                        self._keep(piece.replace(" ", ""))

    def _lines_from(self, block: str) -> Iterator[str]:
        """The lines of a block; of those that follow it too, up to one that ends with a line."""
        yield from StringIO(block)
        while block[-1] != "\n":
            block = next(self._blocks, "\n")
            yield from StringIO(block)

    def _begin(self, header: str) -> None:
        self._number += 1
        self._header, self._parts, self._letters = header, [], 0

    def _keep(self, letters: str) -> None:
        if self._letters <= self._max_letters:
            self._parts.append(letters)
            self._letters += len(letters)

    def _finished(self) -> Record:
        """The record under way."""
        assert self._header is not None
        record = self._header, "".join(self._parts)
        _check_decoded(self._number, record)
        return record


def _joined(lines: str) -> str:
    """The letters of lines of ASCII, without what stands around them and the blanks between them."""
    letters = lines.strip()
    if "\n" in letters:
        letters = "".join(map(str.strip, letters.split("\n")))
    return letters.replace(" ", "") if " " in letters else letters


def _fastq(blocks: Iterator[str], max_letters: int) -> Iterator[Record]:
    """The records of FASTQ: by fours of lines, up to the first block or lines that are unusual; then line by line."""
    number = 0
    rest = ""
    for block in blocks:
        rest += block
        if not rest.isascii() or rest[-1] != "\n" or len(rest) >= _PIECE:
            break
        lines = rest.split("\n")
        usual = 0
        for header, sequence, plus, qualities in zip(*[iter(lines[:-1])] * 4, strict=False):
            if (
                header[:1] != "@"
                or plus[:1] != "+"
                or plus[1:] not in ("", header[1:])
                or len(sequence) != len(qualities)
            ):
                break
            yield header[1:], sequence
            usual += 1
        number += usual
        rest = "\n".join(lines[4 * usual :])
        if usual < len(lines[:-1]) // 4:
            break
    pieces = chain.from_iterable(map(StringIO, chain([rest], blocks)))
    for later, record in enumerate(_fastq_by_line(pieces, max_letters, number), start=number + 1):
        _check_decoded(later, record)
        yield record


def _fastq_by_line(pieces: Iterator[str], max_letters: int, number: int) -> Iterator[Record]:
    """The records of the lines that remain after `number` records, with the errors of those that are damaged."""
    for raw in pieces:
        header = raw.rstrip("\n").removeprefix(_BOM)
        if not header.strip():
            continue
        number += 1
        if len(raw) >= _PIECE:
            raise _endless_header(number)
        if not header.startswith("@"):
            raise MalformedRecords(
                f"is damaged after record {number - 1}: the next line begins with {_shown(header[:20])} instead of @; "
                "write four lines for each record"
            )
        rest = list(islice(_lines(pieces, max_letters), 3))
        sequence, plus, qualities = (*rest, *(_NO_LINE, _Line("+", 1), _NO_LINE)[len(rest) :])
        if not plus.text.startswith("+"):
            several = sequence.text.strip() and _LETTERS.fullmatch(plus.text[:_PIECE])
            raise MalformedRecords(
                _several_lines(number, header)
                if several
                else f"record {number} ({_shown(header[1:])}) is damaged: its third line begins with "
                f"{_shown(plus.text[:20])} instead of +; write four lines for each record"
            )
        # An empty last line does not count.
        if len(rest) < 2 or (len(rest) == 2 and sequence.length):
            raise MalformedRecords(_truncated(number, header))
        if plus.length > 1 and plus.text[1:] != header[1:]:
            raise MalformedRecords(
                f"record {number} ({_shown(header[1:])}) is damaged: its third line names another record, "
                f"{_shown(plus.text[1:])}; repair the file or make it again"
            )
        if qualities.length != sequence.length:
            following = next(pieces, "").rstrip("\n")
            if not following and qualities.length < sequence.length:
                raise MalformedRecords(_truncated(number, header))
            if following and qualities.length + len(following) <= sequence.length and following[0] != "@":
                raise MalformedRecords(_several_lines(number, header))
            raise MalformedRecords(
                f"record {number} ({_shown(header[1:])}) is damaged: it has {sequence.length} letters but "
                f"{qualities.length} qualities; repair the file or make it again"
            )
        yield header[1:], sequence.text


class _Line(NamedTuple):
    """A line without its end: its start, and the letters that it has in all."""

    text: str
    length: int


_NO_LINE = _Line("", 0)


def _lines(pieces: Iterator[str], max_letters: int) -> Iterator[_Line]:
    """The next lines. Of one that is longer than a piece, the text has no blanks and ends after `max_letters`."""
    for first in pieces:
        if first[-1] == "\n":
            yield _Line(first[:-1], len(first) - 1)
            continue
        parts, kept, length = [first.replace(" ", "")], len(first) - first.count(" "), len(first)
        for piece in _rest_of_line(pieces):
            length += len(piece)
            if kept <= max_letters:
                parts.append(piece.replace(" ", ""))
                kept += len(parts[-1])
        yield _Line("".join(parts) if len(parts) > 1 else first, length)


def _rest_of_line(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces up to the next line end, which is left out."""
    for piece in pieces:
        yield piece.removesuffix("\n")
        if piece[-1] == "\n":
            return


def _endless_header(number: int) -> MalformedRecords:
    return MalformedRecords(
        f"is damaged: record {number} has a header of over {_PIECE:,} letters; repair the file or make it again"
    )


def not_sequences(start: str) -> str:
    """What to say, behind the file's name, of content that begins like this."""
    raw = start.encode("utf-8", "surrogateescape")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or raw[1:2] == b"\0" != raw[:1]:
        return "is text in UTF-16: convert it, for example with iconv -f UTF-16 -t UTF-8"
    return (
        f"is neither FASTA nor FASTQ: it starts with {raw[:20]!r} instead of > or @; "
        "give a file of nucleotide sequences"
    )


def _several_lines(number: int, header: str) -> str:
    return (
        f"is multi-line FASTQ, from record {number} ({_shown(header[1:])}) on: write four lines for each record, "
        "for example with seqtk seq"
    )


def _truncated(number: int, header: str) -> str:
    return f"ends in the middle of record {number} ({_shown(header[1:])}): it is truncated, copy or download it again"


def _check_decoded(number: int, record: Record) -> None:
    header, sequence = record
    # ASCII is known without looking at the letters.
    if not header.isascii():
        _refuse_undecoded(number, header, "header", header)
    if not sequence.isascii():
        _refuse_undecoded(number, header, "sequence", sequence)


def _refuse_undecoded(number: int, header: str, part: str, content: str) -> None:
    try:
        content.encode()
    except UnicodeEncodeError as error:
        byte = content[error.start].encode("utf-8", "surrogateescape")
        raise MalformedRecords(
            f"is not text in UTF-8: record {number} ({_shown(header)}) has the byte 0x{byte.hex()} in its {part}; "
            "convert the file, for example with iconv -f LATIN1 -t UTF-8"
        ) from error


def _shown(text: str) -> str:
    """The first word, or the start of one, quoted; bytes that are not UTF-8 as escapes."""
    word = text.split(maxsplit=1)[0][:_SHOWN_LETTERS] if text.strip() else text[:_SHOWN_LETTERS]
    return repr(word.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))
