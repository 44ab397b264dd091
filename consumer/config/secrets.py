"""What of the Kafka client's options may be shown, and the hiding of the rest wherever this process writes.

One rule, by the kind of option: a number, a switch or a word of a closed list is shown; free text is hidden unless the
option is known to hold no secret. So a command with a password in it, an address with a user, and a key are hidden, and
so is an option that a later librdkafka brings.
"""

from __future__ import annotations

import re
from functools import cache

MASK = "********"

# Free text, and no secret.
_NAMES = frozenset(
    (
        "broker.version.fallback",
        "client.id",
        "client.rack",
        "group.protocol.type",
        "group.remote.assignor",
        "sasl.kerberos.keytab",
        "sasl.kerberos.principal",
        "sasl.kerberos.service.name",
        "sasl.mechanism",
        "sasl.mechanisms",
        "sasl.oauthbearer.assertion.claim.aud",
        "sasl.oauthbearer.assertion.claim.iss",
        "sasl.oauthbearer.assertion.claim.sub",
        "sasl.oauthbearer.client.id",
        "sasl.oauthbearer.scope",
        "sasl.oauthbearer.sub.claim.name",
        "sasl.username",
        "ssl.cipher.suites",
        "ssl.curves.list",
        "ssl.engine.id",
        "ssl.sigalgs.list",
    )
)
_PATHS = (".location", ".file")
_NO_WORD = "no word of any closed list \N{SNOWMAN}"
_SHORTEST = 4
"""Shorter text is part of too many words to be taken out of them."""

_hidden: set[str] = set()


def masked_option(option: str, value: str) -> str:
    """The value of an option of the Kafka client as it may be shown."""
    return value if option in _NAMES or option.endswith(_PATHS) or not _is_free_text(option) else MASK


def hide(value: str) -> None:
    """From now on nothing that goes through `redacted` shows this value.

    Nor its parts: librdkafka fills in what stands as %{...} in a command, and may show the rest or an address's user.
    """
    parts = [value, *re.split(r"%\{[^}]*\}", value), *re.findall(r"//([^/@\s]+)@", value)]
    _hidden.update(part.strip() for part in parts if len(part.strip()) >= _SHORTEST)


def redacted(text: str) -> str:
    """The text, with a mask for each hidden value in it."""
    for value in sorted(_hidden, key=len, reverse=True):
        text = text.replace(value, MASK)
    return text


@cache
def _is_free_text(option: str) -> bool:
    # Imported here, so that a command for files does not load the Kafka client.
    from consumer.kafka.librdkafka import option_problem

    return option_problem(option, _NO_WORD) is None
