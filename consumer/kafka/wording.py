"""What librdkafka writes, without the guesses that it adds.

It explains a lost connection by an old broker or a listener without TLS, whatever the cause was, and a person who reads
that looks in the wrong place. The service names causes and cures of its own where they are known
(`consumer/kafka/error_table.py`).
"""

from __future__ import annotations

import re

_GUESSES = (
    # Up to librdkafka's own "(after 3ms in state CONNECT)", or to the end.
    re.compile(
        r":? \(?(might be caused by|probably due to|possibly held back by|verify that|connecting to a \w+ broker).*?"
        r"(?= \(after \d|$)",
        re.DOTALL,
    ),
    re.compile(r" \([^()]*\?\)"),
)


def without_guesses(text: str) -> str:
    """The text as it says what happened, without what librdkafka takes for the cause."""
    for guess in _GUESSES:
        text = guess.sub("", text)
    return text
