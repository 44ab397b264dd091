"""One process of the service over Kafka in memory, with a device that does what the test says.

It is built by the functions of consumer/runtime.py, and taken down as there; only the clients, the clock and the
pipeline are others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast

from confluent_kafka import Consumer, Producer, TopicPartition

from consumer.config.settings import ServiceSettings
from consumer.delivery.answers import Answer
from consumer.delivery.at_least_once import CommitReports
from consumer.delivery.delivery_listener import CommitOutcome
from consumer.delivery.transactions import MAX_HANGS
from consumer.errors import KafkaFatal
from consumer.kafka.cluster import BrokerWatch
from consumer.kafka.renewable_admin import RenewableAdmin
from consumer.kafka.topic_ids import TopicIds
from consumer.ledger import Ledger
from consumer.ops.events import Event, RecordsSkipped
from consumer.runtime import (
    Clients,
    Scoring,
    Telemetry,
    build_delivery,
    build_scoring,
    build_service,
)
from consumer.scoring.batcher import Batch
from consumer.scoring.model import ServedModel
from consumer.scoring.pipeline import Pipeline
from consumer.types import Finished, Outcome, Partition, RawMessage, Refused, Scored, Source
from schemas import Reason
from schemas.codecs import AvroCodec, Codec
from tests.simulation.memory_clients import Link, MemoryAdmin, MemoryConsumer, MemoryProducer
from tests.simulation.memory_kafka import MemoryKafka
from tests.support.factories import STAMP, AtOnce, FakeClock, refused, scored

INPUT, OUTPUT, LETTERS = "sequences", "predictions", "sequences.dlq"
PARTITIONS = 3
TEMPLATE = scored(10)
POISON, FAILING, LARGE = b"poison", b"failing", b"large"
MAX_MESSAGE_BYTES = 20_000  # the prediction of a large record is more


class Crashed(BaseException):
    """The process is gone in the middle of a call."""


class Pace(NamedTuple):
    """How many records start and finish on the device while the service waits for one; whether the newest are first."""

    starts: int
    finishes: int
    newest_first: bool = True


HALT, FAST, EMPTY = Pace(0, 0), Pace(8, 8), Pace(0, 8, newest_first=False)


class StepPipeline:
    """A pipeline whose records start and finish when a rule says so.

    While the service waits for one, as many start and finish as `pace` says.
    """

    def __init__(self, is_wanted: Callable[[Source], bool], clock: FakeClock) -> None:
        self._is_wanted, self._clock = is_wanted, clock
        self._waiting: list[RawMessage] = []
        self._running: list[RawMessage] = []
        self._outbox: list[Finished] = []
        self.pace = HALT
        self.handed_over: set[Source] = set()

    @property
    def running(self) -> list[RawMessage]:
        """What is on the device."""
        return list(self._running)

    @property
    def queued_tokens(self) -> int:
        return 10 * len(self._waiting)

    def tokens_by_partition(self) -> dict[Partition, int]:
        waiting = Counter(message.source.partition for message in self._waiting)
        return {partition: 10 * count for partition, count in waiting.items()}

    @property
    def tokens_per_byte(self) -> float:
        return 10.0

    @property
    def delayed_records(self) -> int:
        return 0

    @property
    def queued_bytes(self) -> dict[str, int]:
        return {"inbox": 0, "batcher": 0}

    stage_times = ()

    def submit(self, message: RawMessage) -> None:
        self._waiting.append(message)

    def finished(self, timeout: float) -> list[Finished]:
        if not self._outbox and timeout > 0:
            self._clock.advance(timeout)
            self.start(self.pace.starts)
            for _ in range(self.pace.finishes):
                self.finish(-1 if self.pace.newest_first else 0)
        done, self._outbox = self._outbox, []
        self.handed_over |= {finished.source for finished in done}
        return done

    def discard(self) -> None:
        self._waiting = [message for message in self._waiting if self._is_wanted(message.source)]

    def has_started(self, partitions: Collection[Partition]) -> bool:
        return any(message.source.partition in partitions for message in self._running)

    def drain(self) -> None:
        """Nothing waits for company here."""

    def start(self, count: int) -> None:
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        self._running += [message for message in taken if self._is_wanted(message.source)]

    def finish(self, place: int) -> None:
        if self._running:
            message = self._running.pop(place % len(self._running))
            self._outbox.append(Finished(message.source, outcome(message.source, message.value or b"")))


def outcome(source: Source, value: bytes) -> Outcome:
    if value == POISON:
        return refused()
    if value == FAILING:
        return Refused(Reason.INFERENCE_FAILED, "inference", "no")
    name = f"{source}{'!' * MAX_MESSAGE_BYTES if value == LARGE else ''}"
    return Scored(replace(TEMPLATE.result, record_id=name), TEMPLATE.tokens)


class EpochCheck:
    """A listener: every delivered answer is one that the device gave for this very assignment. Notes skips."""

    def __init__(self, pipeline: StepPipeline) -> None:
        self._pipeline = pipeline
        self.skips: list[RecordsSkipped] = []
        self.hangs = 0
        """Calls in a row that hung."""

    def delivered(self, answer: Answer) -> None:
        assert answer.message.source in self._pipeline.handed_over, "an answer of an old epoch"

    def happened(self, event: Event) -> None:
        if isinstance(event, RecordsSkipped):
            self.skips.append(event)

    def batch_done(self, batch: Batch, seconds: float) -> None: ...

    def batch_failed(self, kind: str) -> None: ...

    def computed(self, protein_tokens: int, nucleotide_tokens: int) -> None: ...

    def frames_reused(self, frames: int) -> None: ...

    def record_delayed(self) -> None: ...

    def committed(self, outcome: CommitOutcome) -> None:
        if outcome in ("ok", "hung"):
            self.hangs = self.hangs + 1 if outcome == "hung" else 0


def settings(transactional: bool, **changes: Any) -> ServiceSettings:
    """A few records fill the budgets; the breaker never opens."""
    values: dict[str, Any] = {
        "kafka_bootstrap_servers": "memory:9092",
        "delivery": "exactly_once" if transactional else "at_least_once",
        "group_id": "group",
        "input_topic": INPUT,
        "output_topic": OUTPUT,
        "dlq_topic": LETTERS,
        "commit_interval_ms": 100,
        "max_inflight_records": 8,
        "max_inflight_bytes": 1_000_000,
        "breaker_share": 1,
    }
    return ServiceSettings(**values | changes)


class Member:
    """One process of the service; `changes` are settings.

    Args:
        model: with one it has a real pipeline, with its threads, in place of `StepPipeline`.
        codec: of the messages.
    """

    def __init__(
        self,
        kafka: MemoryKafka,
        slot: int,
        transactional: bool,
        max_tokens: int = 1_000_000,
        runs_alone: Callable[[Source], bool] = lambda _: False,
        model: ServedModel | None = None,
        codec: Codec | None = None,
        **changes: Any,
    ) -> None:
        self.slot, self.alive = slot, True
        self._kafka, self._clock, self._transactional = kafka, kafka.clock, transactional
        self.reading, self.writing = Link(kafka.clock), Link(kafka.clock)
        self.producers: list[MemoryProducer] = []
        self.ledger = Ledger()
        self.pipeline = StepPipeline(self.ledger.is_wanted, kafka.clock)
        chosen = settings(transactional, **changes)
        self.check = EpochCheck(self.pipeline)
        checks = [self.check] if model is None else []
        self.telemetry = Telemetry(chosen, *checks, clock=kafka.clock)
        self.admin = MemoryAdmin(kafka)
        self._clients = Clients(
            admin=cast(RenewableAdmin, self.admin),
            new_consumer=self._new_consumer,
            new_producer=self._new_producer,
            committed=self._committed,
            executor=AtOnce(),
            brokers=BrokerWatch(clock=kafka.clock),
            partition_counts=dict.fromkeys((INPUT, OUTPUT, LETTERS), PARTITIONS),
            topic_ids=partial(TopicIds, self.admin, INPUT, (OUTPUT, LETTERS)),
        )
        self._stack, self._settings = ExitStack(), chosen
        codec = codec or AvroCodec()
        if model is None:
            pipeline = cast(Pipeline, self.pipeline)
            self._scoring = Scoring(self.ledger, pipeline, STAMP, codec, max_tokens, lambda: 0, runs_alone)
        else:
            self._scoring = build_scoring(chosen, model, codec, self.telemetry.listeners, self._stack)
            self.ledger = self._scoring.ledger

    def _new_consumer(self, reports: CommitReports) -> Consumer:
        self.consumer = MemoryConsumer(self._kafka, self.reading, reports)
        return cast(Consumer, self.consumer)

    def _new_producer(self) -> Producer:
        name = f"group.{self.slot}" if self._transactional else None
        self.producers.append(MemoryProducer(self._kafka, self.writing, name, room=6))
        return cast(Producer, self.producers[-1])

    def _committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        return self.consumer.committed(partitions, timeout)

    @property
    def producer(self) -> MemoryProducer:
        """The one in use."""
        return self.producers[-1]

    def begin(self) -> None:
        self._live(self._start)

    def turn(self, pace: Pace) -> None:
        self.pipeline.pace = pace
        self._live(self.service.turn)

    def stop(self, pace: Pace, in_the_end: Pace = FAST) -> None:
        """Drain, for as long as that may take; then leave. The device may be faster in the end."""
        is_calm = not (self.reading.is_troubled or self.writing.is_troubled)
        self.pipeline.pace = pace
        self._live(lambda: self.service.drain(25.0))
        self.pipeline.pace = in_the_end
        if self.alive:
            self._live(self.take_down)
        assert not (is_calm and self.alive and self.producer.has_open_transaction), "left open at the end"
        self.alive = False

    def cut_off(self, seconds: float, reads: bool) -> None:
        self.writing.cut_off_until = self._clock() + seconds
        if not reads:
            self.reading.cut_off_until = self._clock() + seconds

    def crash(self, sent: bool) -> None:
        """End at once; what was produced is still sent, or not."""
        if sent:
            self.producer.send()
        self.alive = False

    def _live(self, part: Callable[[], object]) -> None:
        try:
            part()
        except Crashed:
            self.alive = False
        except KafkaFatal:
            hangs = self.check.hangs >= MAX_HANGS
            assert hangs or any(producer.is_fenced for producer in self.producers), "fatal without a cause"
            self.alive = False
            with suppress(KafkaFatal, Crashed):
                self.take_down()

    def _start(self) -> None:
        """As consumer/runtime.py does it once there is a model."""
        settings, listeners, clock = self._settings, self.telemetry.listeners, self._clock
        outlet = build_delivery(settings, self._clients, self._scoring, listeners, self._stack, clock)
        self.delivery = outlet.delivery
        self.service = build_service(settings, self._clients, self._scoring, outlet, self.telemetry, clock)
        self.service.start(INPUT)

    def take_down(self) -> None:
        self._stack.close()
