"""Points in time as people write them."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from consumer.cli.error_messages import UserError
from consumer.errors import ExitCode

_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def point_in_time(text: str, option: str, now: float | None = None) -> int:
    """Milliseconds since 1970-01-01 UTC.

    Args:
        text: `30m`, `2h`, `7d` ago, or an ISO 8601 date or time; without an offset it is UTC.
        option: which gave it.
        now: seconds since 1970; None is the clock.

    Raises:
        UserError: it is neither.
    """
    if ago := _AGO.fullmatch(text):
        seconds = (time.time() if now is None else now) - float(ago[1]) * _SECONDS[ago[2]]
        return round(seconds * 1000)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(
            f"{option} {text} is not a time: write 30m, 2h or 7d (ago), or 2026-01-31T12:00 (UTC)",
            ExitCode.USAGE,
        ) from error
    return round((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)


def shown_time(milliseconds: int) -> str:
    """The same as people read it, in UTC, to the second."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
