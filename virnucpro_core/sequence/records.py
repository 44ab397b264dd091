"""Parse FASTA and FASTQ: text in, one record at a time out, with errors that name the record."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple, TextIO

_BOM = "\ufeff"
_START_LETTERS = 4096  # a binary file can be one endless line: its start is enough to refuse it
_SHOWN_LETTERS = 60
_LETTERS = re.compile(r"[A-Za-z*.\- ]+")


class MalformedRecords(ValueError):
    """Text that is not FASTA or FASTQ; the message is one line, cause and cure, to follow the file's name."""


class Record(NamedTuple):
    """The header without its > or @, and the letters of the sequence with the line breaks removed."""

    header: str
    sequence: str


def parse_records(text: TextIO) -> Iterator[Record]:
    """The records of a FASTA or FASTQ file; the format is detected from the first letter that is not blank.

    FASTA: blank lines and lines that begin with # are skipped. FASTQ: four lines a record, blank lines between
    records are skipped. Byte order marks are skipped.

    Args:
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
        start += text.readline()
    parse = _fastq if first == "@" else _fasta
    for number, record in enumerate(parse(chain([start], text)), start=1):
        for part, content in (("header", record.header), ("sequence", record.sequence)):
            # ASCII is known without looking at the letters.
            if not content.isascii():
                _refuse_undecoded(number, record.header, part, content)
        yield record


def _fasta(lines: Iterator[str]) -> Iterator[Record]:
    header: str | None = None
    parts: list[str] = []
    for raw in lines:
        line = raw.strip().removeprefix(_BOM)  # files that were joined have one in the middle
        if line.startswith(">"):
            if header is not None:
                yield Record(header, "".join(parts))
            header, parts = line[1:], []
        elif not line or line.startswith("#"):
            continue
        elif header is None:
            raise MalformedRecords(
                f"has {_shown(line[:20])} before its first header: a record begins with >, give a file of nucleotide "
                "sequences"
            )
        else:
            parts.append(line)
    if header is not None:
        yield Record(header, "".join(parts))


def _fastq(lines: Iterator[str]) -> Iterator[Record]:
    number = 0
    for raw in lines:
        header = raw.rstrip("\n").removeprefix(_BOM)
        if not header.strip():
            continue
        number += 1
        if not header.startswith("@"):
            raise MalformedRecords(
                f"is damaged after record {number - 1}: the next line begins with {_shown(header[:20])} instead of @; "
                "write four lines for each record"
            )
        rest = [line.rstrip("\n") for _, line in zip(range(3), lines, strict=False)]
        sequence, plus, qualities = (*rest, *("", "+", "")[len(rest) :])
        if not plus.startswith("+"):
            several = sequence.strip() and _LETTERS.fullmatch(plus)
            raise MalformedRecords(
                _several_lines(number, header)
                if several
                else f"record {number} ({_shown(header[1:])}) is damaged: its third line begins with "
                f"{_shown(plus[:20])} instead of +; write four lines for each record"
            )
        # An empty last line does not count.
        if len(rest) < 2 or (len(rest) == 2 and sequence):
            raise MalformedRecords(_truncated(number, header))
        if len(plus) > 1 and plus[1:] != header[1:]:
            raise MalformedRecords(
                f"record {number} ({_shown(header[1:])}) is damaged: its third line names another record, "
                f"{_shown(plus[1:])}; repair the file or make it again"
            )
        if len(qualities) != len(sequence):
            following = next(lines, "").rstrip("\n")
            if not following and len(qualities) < len(sequence):
                raise MalformedRecords(_truncated(number, header))
            if following and len(qualities) + len(following) <= len(sequence) and following[0] != "@":
                raise MalformedRecords(_several_lines(number, header))
            raise MalformedRecords(
                f"record {number} ({_shown(header[1:])}) is damaged: it has {len(sequence)} letters but "
                f"{len(qualities)} qualities; repair the file or make it again"
            )
        yield Record(header[1:], sequence)


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
