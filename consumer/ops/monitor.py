"""The state of the running service, for those who look at it: the probes and the status page.

The monitor is a listener, and keeps the little that a glance needs. `snapshot` gives it all as one immutable value; it
takes microseconds and no lock that the loop holds for longer, so any thread may ask at any time.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

from consumer.clock import Clock, monotonic
from consumer.config.secrets import redacted
from consumer.delivery.answers import Answer
from consumer.delivery.delivery_listener import CommitOutcome
from consumer.ops.events import (
    BrokersChanged,
    ConsumerError,
    Drained,
    Draining,
    Event,
    LagMeasured,
    ModelLoaded,
    ModelLoading,
    PartitionLag,
    Rebalanced,
    Turned,
)
from consumer.ops.history import History, HistoryView
from consumer.scoring.batcher import Batch
from consumer.scoring.model import ServedModel
from consumer.stage_times import StageTimes
from consumer.types import InFlight, Limit, Partition, Refused, Scored, Source
from schemas import Reason, Verdict

WINDOW_S = 60
MAX_ERRORS = 20
MAX_LATEST = 20
MAX_ID_LETTERS = 200
"""Of a record's id; it comes from outside, and may be long."""
_OURS = (Reason.INFERENCE_FAILED, Reason.QUARANTINED)
"""Refusals that may say something about the service, not only about the record."""

Stage = Literal["starting", "loading", "joining", "serving", "draining"]
"""starting: no broker has answered yet; loading: the model; joining: the group has assigned nothing yet."""


class IntakeState(Protocol):
    """What the monitor and the gauges read of the intake, from any thread."""

    @property
    def records(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def assigned(self) -> Sequence[Partition]: ...
    @property
    def waiting(self) -> int: ...
    @property
    def blocked(self) -> Collection[Partition]: ...
    @property
    def limit(self) -> Limit | None: ...
    @property
    def is_broken(self) -> bool: ...


class PipelineState(Protocol):
    """What the monitor and the gauges read of the pipeline, from any thread."""

    @property
    def queued_tokens(self) -> int: ...
    @property
    def queued_bytes(self) -> Mapping[str, int]: ...
    @property
    def delayed_records(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Rates:
    """Means over the last minute: records answered and tokens scored a second, share of time the device computed, how
    full its batches were, None without a batch, and frames reused a second: not computed, since equal ones had been."""

    records_per_s: float = 0.0
    tokens_per_s: float = 0.0
    device_busy: float = 0.0
    batch_fill: float | None = None
    frames_reused_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Totals:
    """Since the start: predictions delivered by verdict, dead letters by reason."""

    verdicts: Mapping[str, int]
    dead_letters: Mapping[str, int]


class Latest(NamedTuple):
    """A prediction that was delivered: when, of which record, and how long after it was read. No sequence."""

    at: float
    record_id: str
    source: Source
    length: int
    verdict: str
    virus_score: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class ErrorNote:
    """Something that went wrong: seconds since 1970-01-01 UTC, a stable name, and what is known of it."""

    at: float
    event: str
    detail: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The service at one moment.

    Attributes:
        settings: variable -> value in effect, secrets masked.
        model: what computes; None while it is loading.
        assigned: the partitions of this process.
        limit: what keeps the service from reading, None while it reads.
        is_broken: nothing is read because most of the latest records failed.
        turns: how often the loop has turned.
        turn_age_s: seconds since it last did, None before the first time.
        errors: the latest, the oldest first.
        at: seconds since 1970-01-01 UTC.
        uptime_s: seconds since the monitor was made.
        lag: of each assigned partition for which it is known.
        threads: thread -> stage -> seconds since it began.
        latest: the latest predictions, the newest first.
    """

    stage: Stage
    settings: Mapping[str, object]
    model: ServedModel | None
    assigned: tuple[Partition, ...]
    in_flight: InFlight
    limit: Limit | None
    is_broken: bool
    brokers_up: bool
    turns: int
    turn_age_s: float | None
    rates: Rates
    errors: tuple[ErrorNote, ...]
    at: float
    uptime_s: float
    token_budget: int | None
    lag: Mapping[Partition, PartitionLag]
    totals: Totals
    history: HistoryView
    threads: Mapping[str, Mapping[str, float]]
    latest: tuple[Latest, ...]


@dataclass(slots=True)
class Monitor:
    """Keeps `consumer.ops.listeners.Listener`. Written by the service's threads, read by any.

    Args:
        settings: as they may be shown.
        on_ready: called once, when the group has assigned partitions and the loop has turned.
        now: wall clock, seconds since 1970-01-01 UTC.
    """

    settings: Mapping[str, object] = field(default_factory=dict)
    clock: Clock = monotonic
    now: Callable[[], float] = time.time
    on_ready: Callable[[], None] | None = None
    turns: int = field(default=0, init=False)
    _stage: Stage = field(default="starting", init=False)
    _model: ServedModel | None = field(default=None, init=False)
    _last_turn: float | None = field(default=None, init=False)
    _brokers_up: bool = field(default=True, init=False)
    _intake: IntakeState | None = field(default=None, init=False)
    _pipeline: PipelineState | None = field(default=None, init=False)
    _times: tuple[StageTimes, ...] = field(default=(), init=False)
    _token_budget: int | None = field(default=None, init=False)
    _lag: Mapping[Partition, PartitionLag] = field(default_factory=dict, init=False)
    _begun_at: float = field(init=False)
    _window: _Window = field(init=False)
    _history: History = field(init=False)
    _verdicts: dict[str, int] = field(default_factory=lambda: {v.value: 0 for v in Verdict}, init=False)
    _dead_letters: dict[str, int] = field(default_factory=lambda: {r.value: 0 for r in Reason}, init=False)
    _latest: deque[Latest] = field(default_factory=lambda: deque(maxlen=MAX_LATEST), init=False)
    _errors: deque[ErrorNote] = field(default_factory=lambda: deque(maxlen=MAX_ERRORS), init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        self._begun_at = self.clock()
        self._window, self._history = _Window(self._begun_at), History(self._begun_at)

    def watch(self, intake: IntakeState, pipeline: PipelineState, times: Sequence[StageTimes] = ()) -> None:
        """From now on a snapshot says what these hold."""
        self._intake, self._pipeline, self._times = intake, pipeline, tuple(times)

    def snapshot(self) -> Snapshot:
        """The state now; cheap, and safe from any thread."""
        intake, pipeline, last = self._intake, self._pipeline, self._last_turn
        with self._lock:
            rates, errors = self._window.rates(self.clock()), tuple(self._errors)
            totals = Totals(dict(self._verdicts), dict(self._dead_letters))
            history, latest = self._history.view(self.clock()), tuple(reversed(self._latest))
        return Snapshot(
            stage=self._stage,
            settings=MappingProxyType(self.settings),
            model=self._model,
            assigned=() if intake is None else tuple(intake.assigned),
            in_flight=InFlight(
                0 if intake is None else intake.records,
                0 if intake is None else intake.bytes,
                0 if pipeline is None else pipeline.queued_tokens,
            ),
            limit=None if intake is None else intake.limit,
            is_broken=intake is not None and intake.is_broken,
            brokers_up=self._brokers_up,
            turns=self.turns,
            turn_age_s=None if last is None else self.clock() - last,
            rates=rates,
            errors=errors,
            at=self.now(),
            uptime_s=self.clock() - self._begun_at,
            token_budget=self._token_budget,
            lag=MappingProxyType(self._lag),
            totals=totals,
            history=history,
            threads={times.thread: times.seconds() for times in self._times},
            latest=latest,
        )

    def set_brokers_up(self, up: bool) -> None:
        """Whether any Kafka broker answers."""
        self._brokers_up = up
        if not up:
            self._note("kafka_brokers_unreachable", "no Kafka broker answers")

    def record_turn(self) -> None:
        """The loop has turned once more."""
        self.turns += 1
        self._last_turn = self.clock()
        self._announce()

    def record_assignment(self) -> None:
        """The group has given this process its assignment, perhaps an empty one."""
        if self._stage != "draining":
            self._stage = "serving"
        self._announce()

    def _announce(self) -> None:
        """Call `on_ready`, once: with an assignment and a whole turn, since /readyz asks for both."""
        if self.on_ready is not None and self._stage == "serving" and self._last_turn is not None:
            announce, self.on_ready = self.on_ready, None
            announce()

    def happened(self, event: Event) -> None:
        match event:
            case Turned():
                self.record_turn()
            case ModelLoading():
                self._stage = "loading"
            case ModelLoaded(model, token_budget):
                self._stage, self._model, self._token_budget = "joining", model, token_budget
            case LagMeasured(partitions):
                self._set_lag(partitions)
            case Rebalanced("revoked" | "lost", gone):
                self._set_lag({p: lag for p, lag in self._lag.items() if p not in gone})
            case BrokersChanged(up):
                self.set_brokers_up(up)
            case Rebalanced("assigned"):
                self.record_assignment()
            case ConsumerError(error):
                self._note("kafka_consumer_error", error.str())
            case Draining():
                self._stage = "draining"
            case Drained(complete=False, in_flight=in_flight):
                self._note("drain_timed_out", f"{in_flight.records} records not delivered")

    def batch_done(self, batch: Batch, seconds: float) -> None:
        fill = 0.0 if self._token_budget is None else max(batch.tokens, batch.dna_tokens) / self._token_budget
        with self._lock:
            self._window.add(self.clock(), busy_s=seconds, batches=1, fill=fill)
            self._history.add_batch(self.clock(), seconds)

    def computed(self, protein_tokens: int, nucleotide_tokens: int) -> None:
        """A metric counts them."""

    def frames_reused(self, frames: int) -> None:
        with self._lock:
            self._window.add(self.clock(), reused=frames)

    def record_delayed(self) -> None:
        """The pipeline logs when a dependency goes and comes back; its records are a gauge."""

    def batch_failed(self, kind: str) -> None:
        self._note("batch_failed", kind)

    def delivered(self, answer: Answer) -> None:
        outcome, now = answer.outcome, self.clock()
        tokens = outcome.tokens if isinstance(outcome, Scored) else 0
        with self._lock:
            self._window.add(now, records=1, tokens=tokens)
            self._history.add_answer(now, tokens, isinstance(outcome, Refused))
            if isinstance(outcome, Scored):
                self._verdicts[outcome.result.verdict] += 1
                self._latest.append(_latest(answer, outcome, self.now(), now))
            else:
                self._dead_letters[outcome.reason.value] += 1
        if isinstance(outcome, Refused) and outcome.reason in _OURS:
            self._note(outcome.reason.value, f"{answer.message.source}: {outcome.detail}")

    def committed(self, outcome: CommitOutcome) -> None:
        if outcome != "ok":
            self._note("commit_not_ok", outcome)

    def _set_lag(self, partitions: Mapping[Partition, PartitionLag]) -> None:
        self._lag = dict(partitions)
        if partitions:
            records = sum(lag.records for lag in partitions.values())
            seconds = max(lag.seconds for lag in partitions.values())
            with self._lock:
                self._history.set_lag(self.clock(), records, seconds)

    def _note(self, event: str, detail: str) -> None:
        with self._lock:
            self._errors.append(ErrorNote(self.now(), event, redacted(detail)))


def _latest(answer: Answer, outcome: Scored, at: float, now: float) -> Latest:
    result, message = outcome.result, answer.message
    return Latest(
        at,
        result.record_id[:MAX_ID_LETTERS],
        message.source,
        result.length,
        result.verdict,
        result.virus_score,
        now - message.received_at,
    )


class _Window:
    """Sums of the last `WINDOW_S` seconds, one slot a second."""

    def __init__(self, begun_at: float) -> None:
        self._begun_at = begun_at
        self._slots: deque[tuple[int, list[float]]] = deque()

    def add(
        self,
        now: float,
        records: int = 0,
        tokens: int = 0,
        busy_s: float = 0.0,
        batches: int = 0,
        fill: float = 0.0,
        reused: int = 0,
    ) -> None:
        second = int(now)
        if not self._slots or self._slots[-1][0] != second:
            self._drop_old(now)
            self._slots.append((second, [0.0] * 6))
        sums = self._slots[-1][1]
        sums[0] += records
        sums[1] += tokens
        sums[2] += busy_s
        sums[3] += batches
        sums[4] += fill
        sums[5] += reused

    def rates(self, now: float) -> Rates:
        self._drop_old(now)
        span = max(1.0, min(float(WINDOW_S), now - self._begun_at))
        totals = [sum(sums[place] for _, sums in self._slots) for place in range(6)]
        records, tokens, busy, batches, fill, reused = totals
        return Rates(
            records / span,
            tokens / span,
            min(1.0, busy / span),
            fill / batches if batches else None,
            reused / span,
        )

    def _drop_old(self, now: float) -> None:
        while self._slots and self._slots[0][0] <= now - WINDOW_S - 1:
            self._slots.popleft()
