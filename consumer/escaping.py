"""What a terminal would act on instead of showing it: control codes, line breaks, bidirectional and invisible marks.

Ids, keys and details come from whoever publishes. Text for people is escaped everywhere; JSON lines are escaped as JSON
allows it, which readers undo; a table for programs is escaped on a terminal only, and raw in files and pipes.
"""

from __future__ import annotations

import json
from typing import Any, TextIO, cast


def escaped(text: str) -> str:
    """The text on one line, each character that is not printable as JSON escapes it (`\\n`, `\\u001b`, `\\u202e`)."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)


def json_line(value: Any) -> str:
    """A value as one line of JSON, letters outside ASCII as they are where they are printable."""
    return escaped(json.dumps(value, ensure_ascii=False))


def shown_on(stream: TextIO) -> TextIO:
    """The stream for rows of data: as it is, or, for a terminal, with all but tabs and line ends escaped."""
    return cast("TextIO", _Escaping(stream)) if stream.isatty() else stream


class _Escaping:
    """As much of a text stream as reports use."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        lines = ("\t".join(map(escaped, line.split("\t"))) for line in text.split("\n"))
        return self._stream.write("\n".join(lines))

    def flush(self) -> None:
        self._stream.flush()
