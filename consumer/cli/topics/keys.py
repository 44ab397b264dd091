"""The key of a published message: the record's id, none, or a field of its header line."""

from __future__ import annotations

import re
from collections.abc import Callable

from consumer.cli.error_messages import UserError
from consumer.errors import ExitCode
from schemas import SequenceRecord

KeyOf = Callable[[SequenceRecord], bytes | None]
FIELD = "field:"


def key_of(choice: str) -> KeyOf:
    """What gives the key of a record.

    Args:
        choice: `id`, `none`, or `field:NAME` for the value of `NAME=value` in the record's description.

    Raises:
        UserError: it is none of these; the function itself raises it for a record without that field.
    """
    if choice == "id":
        return lambda record: record.id.encode()
    if choice == "none":
        return lambda _: None
    name = choice.removeprefix(FIELD)
    if not choice.startswith(FIELD) or not name:
        raise UserError(f"--key {choice} is refused: it takes id, none or field:NAME", ExitCode.USAGE)
    wanted = re.compile(rf"(?:^|[\s;|]){re.escape(name)}=([^\s;|]+)")

    def field(record: SequenceRecord) -> bytes:
        found = wanted.search(record.description or "")
        if found is None:
            raise UserError(
                f"record {record.id!r} has no field {name}=... in its header line: choose another --key"
            )
        return found[1].encode()

    return field
