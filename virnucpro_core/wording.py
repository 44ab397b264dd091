"""Pieces of messages for people."""

from __future__ import annotations

from collections.abc import Sequence

_SHOWN = 3
_LARGE = 10**30


def one_line(message: object, most: int = 200) -> str:
    """A message, an error's for example, with its line breaks as spaces and at most `most` characters."""
    return " ".join(str(message).split())[:most]


def some_of(names: Sequence[str], count: int | None = None) -> str:
    """The first three names and how many more there are; count: of all, where `names` are only the first of them."""
    more = (len(names) if count is None else count) - len(names[:_SHOWN])
    return ", ".join(names[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def shown(value: object, most: int = 60) -> str:
    """A value of unknown content for a message: text quoted and cut, numbers as they are, all else by its type."""
    if isinstance(value, str):
        return repr(value if len(value) <= most else f"{value[:most]}...")
    if value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < _LARGE):
        return repr(value)
    return f"a {type(value).__name__}"
