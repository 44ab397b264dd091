"""What the client raises; the text of each error is one line with the cause and the cure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from virnucpro_client.runs import Run

_EXAMPLES = 3


class ClientError(Exception):
    """The base of all errors of this package."""


class BrokerUnavailable(ClientError):
    """The broker does not answer, or a topic does not exist or cannot be read."""


class PublishFailed(ClientError):
    """Some records were not published; all others of the iterable were.

    Args:
        run: of the records that the broker has acknowledged; its answers can be awaited.
        refused: why, by the place of the record in the iterable, counted from 0, with its id.
    """

    def __init__(self, run: Run, refused: Mapping[int, tuple[str, str]]) -> None:
        examples = "; ".join(f"{name!r}: {why}" for name, why in list(refused.values())[:_EXAMPLES])
        more = f"; and {len(refused) - _EXAMPLES} more" if len(refused) > _EXAMPLES else ""
        super().__init__(
            f"{len(refused)} records were not published, {len(run)} were ({examples}{more}): correct these and "
            "publish them again; the answers of the others can be awaited with the run of this error"
        )
        self.run, self.refused = run, refused


class Unanswered(ClientError):
    """The deadline has passed before every record of a run was answered.

    Args:
        missing: ids of the records without an answer, in the order of publication.
        answered: how many records have one.
        timeout_s: the deadline.
        hint: what the client knows about the cause, or "".
    """

    def __init__(self, missing: Sequence[str], answered: int, timeout_s: float, hint: str) -> None:
        names = ", ".join(repr(name) for name in missing[:_EXAMPLES])
        more = f" and {len(missing) - _EXAMPLES} more" if len(missing) > _EXAMPLES else ""
        super().__init__(
            f"{len(missing)} of {answered + len(missing)} records have no answer after {timeout_s:g} s "
            f"({names}{more}){hint}: look at the service (/readyz, its consumer group's lag, VIRNUCPRO_OUTPUT_TOPIC), "
            "then wait for the same run again"
        )
        self.missing, self.answered = tuple(missing), answered
