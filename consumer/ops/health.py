"""Whether the service has started, is alive and is ready, as the probes of a supervisor ask it.

Started: a broker has answered, the model is loaded and the loop that owns Kafka turns. Alive: that loop has turned
lately. Ready: started, the consumer is a member of its group, a broker answers, most records can be predicted, and the
service is not shutting down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from consumer.ops.monitor import Snapshot

STUCK_AFTER_S = 60.0


class Check(NamedTuple):
    """One condition of a probe, and why it does not hold; None when it does."""

    name: str
    reason: str | None


def stuck_for(state: Snapshot) -> float | None:
    """Seconds since the last turn of the loop if that is too long, else None; never before the first turn."""
    age = state.turn_age_s
    return age if age is not None and age > STUCK_AFTER_S else None


def started_checks(state: Snapshot) -> tuple[Check, ...]:
    """Each holds from some moment on, until the process ends."""
    has_broker = state.stage != "starting" or state.turn_age_s is not None
    has_model = state.model is not None or state.turn_age_s is not None
    return (
        Check("broker", None if has_broker else "waiting for a Kafka broker and its topics"),
        Check("model", None if has_model else "loading the model"),
        Check("loop", None if state.turn_age_s is not None else "the main loop has not turned yet"),
    )


def live_checks(state: Snapshot) -> tuple[Check, ...]:
    """A service that fails one of these does not come back by itself."""
    stuck = stuck_for(state)
    return (Check("loop", None if stuck is None else f"the main loop has not turned for {stuck:.0f} s"),)


def ready_checks(state: Snapshot) -> tuple[Check, ...]:
    """Those of a service that works; most come back by themselves."""
    broken = "most records fail, see breaker_opened in the log: reading has stopped"
    return (
        Check("shutdown", "shutting down" if state.stage == "draining" else None),
        Check("started", "starting" if state.turn_age_s is None else None),
        Check("loop", None if stuck_for(state) is None else "the main loop hangs"),
        Check("broker", None if state.brokers_up else "no Kafka broker answers"),
        Check("group", None if state.stage in ("serving", "draining") else "joining the consumer group"),
        Check("breaker", broken if state.is_broken else None),
    )


def first_reason(checks: Sequence[Check]) -> str | None:
    """Why the first that does not hold does not; None when all hold."""
    return next((check.reason for check in checks if check.reason is not None), None)


def not_ready(state: Snapshot) -> str | None:
    """Why this process should not be counted on now, or None when it is ready."""
    return first_reason(ready_checks(state))


def report(checks: Sequence[Check]) -> dict[str, Any]:
    """All checks, for people and programs."""
    return {
        "status": "pass" if first_reason(checks) is None else "fail",
        "checks": {
            check.name: {"status": "pass"}
            if check.reason is None
            else {"status": "fail", "reason": check.reason}
            for check in checks
        },
    }
