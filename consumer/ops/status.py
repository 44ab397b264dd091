"""The state of the running service as JSON, for the status page and for programs. It holds no sequence, no secret."""

from __future__ import annotations

import json
from typing import Any

from consumer.ops.health import first_reason, ready_checks
from consumer.ops.history import SLOT_S
from consumer.ops.monitor import Latest, Snapshot
from consumer.ops.software import versions
from consumer.scoring.model import ServedModel

MAX_PARTITIONS = 20
"""Of the assigned partitions, those that are most behind are listed."""


def status(state: Snapshot) -> bytes:
    """One JSON object; its members are described in docs/http.md."""
    return json.dumps(_status(state), default=str, allow_nan=False).encode()


def _status(state: Snapshot) -> dict[str, Any]:
    reason = first_reason(ready_checks(state))
    return {
        "at": state.at,
        "uptime_s": state.uptime_s,
        "stage": state.stage,
        "ready": reason is None,
        "not_ready": reason,
        "software": versions(),
        "model": None if state.model is None else _model(state.model, state.token_budget),
        "intake": {
            "brokers_up": state.brokers_up,
            "breaker_open": state.is_broken,
            "limit": state.limit,
            "assigned_partitions": len(state.assigned),
            "partitions": _partitions(state),
        },
        "in_flight": state.in_flight._asdict(),
        "rates": {
            "records_per_s": state.rates.records_per_s,
            "tokens_per_s": state.rates.tokens_per_s,
            "device_busy": state.rates.device_busy,
            "batch_fill": state.rates.batch_fill,
            "frames_reused_per_s": state.rates.frames_reused_per_s,
        },
        "lag": _lag(state),
        "totals": {
            "verdicts": dict(state.totals.verdicts),
            "dead_letters": {reason: count for reason, count in state.totals.dead_letters.items() if count},
        },
        "history": _history(state),
        "threads": {thread: dict(stages) for thread, stages in state.threads.items()},
        "errors": [{"at": note.at, "event": note.event, "detail": note.detail} for note in state.errors],
        "predictions": [_latest(each) for each in state.latest],
        "settings": dict(state.settings),
    }


def _lag(state: Snapshot) -> dict[str, Any]:
    known = state.lag.values()
    return {
        "records": sum(lag.records for lag in known) if known else None,
        "seconds": max((lag.seconds for lag in known), default=None),
    }


def _partitions(state: Snapshot) -> list[dict[str, Any]]:
    known = sorted(state.lag.items(), key=lambda item: (-item[1].records, item[0]))
    return [
        {
            "topic": partition.topic,
            "partition": partition.number,
            "lag_records": lag.records,
            "lag_seconds": lag.seconds,
        }
        for partition, lag in known[:MAX_PARTITIONS]
    ]


def _model(model: ServedModel, token_budget: int | None) -> dict[str, Any]:
    info = model.info
    return info.as_dict() | {
        "kernels": info.kernels,
        "token_budget": token_budget,
        "refusals": dict(info.refusals),
        "self_test_per_token": None if info.self_test is None else info.self_test.per_token,
    }


def _history(state: Snapshot) -> dict[str, Any]:
    view = state.history
    return {
        "slot_s": SLOT_S,
        "ended_s": view.ended_s,
        "records": view.records,
        "dead_letters": view.dead_letters,
        "tokens": view.tokens,
        "busy_s": view.busy_s,
        "lag_records": view.lag_records,
        "lag_seconds": view.lag_s,
    }


def _latest(each: Latest) -> dict[str, Any]:
    return {
        "at": each.at,
        "id": each.record_id,
        "source": str(each.source),
        "length": each.length,
        "verdict": each.verdict,
        "virus_score": each.virus_score,
        "seconds": each.seconds,
    }
