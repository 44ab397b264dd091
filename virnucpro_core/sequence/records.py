"""Parse FASTA and FASTQ: text in, one record at a time out, with errors that name the record."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from typing import NamedTuple, TextIO

_BOM = "\ufeff"
_START_LETTERS = 4096  # a binary file can be one endless line: its start is enough to refuse it
_PIECE = 1 << 20
"""Letters of a line that are read at once: a line may be as long as the file."""
_SHOWN_LETTERS = 60
_LETTERS = re.compile(r"[A-Za-z*.\- ]+")


class MalformedRecords(ValueError):
    """Text that is not FASTA or FASTQ; the message is one line, cause and cure, to follow the file's name."""


class Record(NamedTuple):
    """The header without its > or @, and the letters of the sequence without line breaks, perhaps with blanks."""

    header: str
    sequence: str


def parse_records(text: TextIO, max_letters: int = sys.maxsize) -> Iterator[Record]:
    """The records of a FASTA or FASTQ file; the format is detected from the first letter that is not blank.

    FASTA: blank lines and lines that begin with # are skipped. FASTQ: four lines a record, blank lines between
    records are skipped. Byte order marks are skipped.

    Args:
        max_letters: of a sequence that has more, blanks not counted, some more than these are given and the rest is
            passed over: memory is bounded by this and 2 MB, whatever the file unpacks to.
        text: decoded as UTF-8 with the error handler `surrogateescape`, so that bytes that are not UTF-8 can be
            reported with their record; line ends as with `newline=None`.

    Raises:
        MalformedRecords: while iterating.
    """
    start = ""
    while not start.strip():
        start = text.readline(_START_LETTERS)
        if not start:
            return
        start = start.removeprefix(_BOM)
    letters = start.lstrip()
    first = letters[0]
    if first not in ">#@" or letters[1:2] == "\0":
        raise MalformedRecords(not_sequences(letters))
    if not start.endswith("\n"):
        start += text.readline(_PIECE)
    parse = _fastq if first == "@" else _fasta
    pieces = chain([start], iter(partial(text.readline, _PIECE), ""))
    for number, record in enumerate(parse(pieces, max_letters), start=1):
        for part, content in (("header", record.header), ("sequence", record.sequence)):
            # ASCII is known without looking at the letters.
            if not content.isascii():
                _refuse_undecoded(number, record.header, part, content)
        yield record


def _fasta(pieces: Iterator[str], max_letters: int) -> Iterator[Record]:
    header: str | None = None
    parts: list[str] = []
    letters = number = 0
    for raw in pieces:
        line = raw.strip().removeprefix(_BOM)  # files that were joined have one in the middle
        if line.startswith(">"):
            if header is not None:
                yield Record(header, "".join(parts))
            number += 1
            _check_header(raw, number)
            header, parts, letters = line[1:], [], 0
            continue
        is_comment = line.startswith("#")
        if line and not is_comment:
            if header is None:
                raise MalformedRecords(
                    f"has {_shown(line[:20])} before its first header: a record begins with >, give a file of "
                    "nucleotide sequences"
                )
            if letters <= max_letters:
                if len(raw) >= _PIECE:  # what stands at its end may be in the middle of the line
                    line = raw.lstrip().removeprefix(_BOM).removesuffix("\n")
                parts.append(line.replace(" ", "") if " " in line else line)
                letters += len(parts[-1])
        if raw[-1] != "\n":  # a long line, or the last one
            for piece in _rest_of_line(pieces):
                if not is_comment and letters <= max_letters:
                    parts.append(piece.replace(" ", ""))
                    letters += len(parts[-1])
    if header is not None:
        yield Record(header, "".join(parts))


def _fastq(pieces: Iterator[str], max_letters: int) -> Iterator[Record]:
    number = 0
    for raw in pieces:
        header = raw.rstrip("\n").removeprefix(_BOM)
        if not header.strip():
            continue
        number += 1
        _check_header(raw, number)
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
        yield Record(header[1:], sequence.text)


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


def _check_header(raw: str, number: int) -> None:
    if len(raw) >= _PIECE:
        raise MalformedRecords(
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
