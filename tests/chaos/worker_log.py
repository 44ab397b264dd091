"""What the logs of a run's workers say that the checker needs to know."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class SkipLine:
    """A line `records_skipped`: when it was written (seconds since 1970), and the offsets that it names."""

    at: float
    partition: int
    first: int
    last: int


@dataclass(slots=True)
class Events:
    """Attributes:
    skips: every `records_skipped`.
    recreated: when `topic_recreated` was logged for the input topic.
    breaker_opened: lines that say so.
    unreadable: lines that are cut, by a kill.
    """

    skips: list[SkipLine] = field(default_factory=list)
    recreated: list[float] = field(default_factory=list)
    breaker_opened: list[str] = field(default_factory=list)
    unreadable: int = 0


def read_events(logs: Iterable[Path], input_topic: str) -> Events:
    """What all workers of a run have logged, one after another."""
    events = Events()
    for log in logs:
        for entry in entries(log.read_bytes().splitlines(keepends=True)):
            match entry.get("event"):
                case "records_skipped":
                    at = _seconds(entry)
                    events.skips.append(SkipLine(at, entry["partition"], entry["from"], entry["to"]))
                case "topic_recreated" if entry["topic"] == input_topic:
                    events.recreated.append(_seconds(entry))
                case "breaker_opened":
                    events.breaker_opened.append(f"{log.stem}: {entry}")
                case None:
                    events.unreadable += 1
    return events


def entries(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The lines of a log in JSON; an empty one for a line that a kill has cut."""
    for line in lines:
        if not line.startswith(b"{"):
            continue
        try:
            yield json.loads(line)
        except ValueError:
            yield {}


def _seconds(entry: dict[str, Any]) -> float:
    return datetime.fromisoformat(entry["timestamp"]).timestamp()
