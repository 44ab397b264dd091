"""Whether the service is alive and whether it is ready, as the probes of a supervisor ask it.

Alive: the loop that owns Kafka has turned lately. Ready: the model is loaded, the consumer is a member of its
group, a broker answers, most records can be predicted, and the service is not shutting down.
"""

from __future__ import annotations

from consumer.ops.monitor import Snapshot

STUCK_AFTER_S = 60.0


def stuck_for(state: Snapshot) -> float | None:
    """Seconds since the last turn of the loop if that is too long, else None; never before the first turn."""
    age = state.turn_age_s
    return age if age is not None and age > STUCK_AFTER_S else None


def not_ready(state: Snapshot) -> str | None:
    """Why this process should not be counted on now, or None when it is ready."""
    if state.stage == "draining":
        return "shutting down"
    if state.turn_age_s is None:
        return "starting"
    if stuck_for(state) is not None:
        return "the main loop hangs"
    if not state.brokers_up:
        return "no Kafka broker answers"
    if state.stage != "serving":
        return "joining the consumer group"
    if state.is_broken:
        return "most records fail, see breaker_opened in the log: reading has stopped"
    return None
