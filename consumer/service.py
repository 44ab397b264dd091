"""The service's loop, on the thread that owns the Kafka clients.

Each turn: read what admission allows, for a fifth of a second at most, collect what the pipeline has finished, let
delivery go one step on. The turn never waits for work, and for Kafka a second at most, so rebalances are answered in
time.

Partitions come and go (`_assigned`, `_revoked`, `_lost` run inside `poll`, on this thread):

* assigned  a new epoch begins; nothing else changes, what runs goes on running.
* revoked   what has not been started is dropped, what runs is finished, delivered and committed, all within
            one deadline; what is not done by then is done again by the next owner.
* lost      the group has given the partitions away already: nothing of them may be committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from consumer.clock import Clock, Deadline, monotonic
from consumer.delivery.contract import RIGHTS, Delivery, missing_right
from consumer.errors import KafkaFatal, ServiceError
from consumer.intake.apart import Apart
from consumer.intake.backpressure import Admission, Level
from consumer.intake.breaker import Breaker
from consumer.intake.start_offsets import Positions
from consumer.kafka.headers import headers_of
from consumer.ledger import Ledger
from consumer.ops.health import Health
from consumer.ops.metrics import Metrics
from consumer.scoring.pipeline import Pipeline
from consumer.types import Headers, Partition, RawMessage, Refused, Source

log = structlog.get_logger(__name__)

_IDLE_POLL_S = 0.05
_BUSY_WAIT_S = 0.01
_READ_AT_ONCE = 500
_READ_S = 0.2
_REVOKE_S = 5.0


class Service:
    """Ties consumer, pipeline and delivery together; `run` returns when it was asked to stop and has drained.

    `run` is `start`, then `turn` after `turn`, then `drain`; a test may take them one by one.

    Args:
        assignment_changed: called after the assignment has changed, to look at the topics again.
        probe: called in every turn, to look whether brokers that were down are back.
        apart: which messages run with nothing else in flight.
    """

    def __init__(
        self,
        consumer: Consumer,
        topic: str,
        ledger: Ledger,
        positions: Positions,
        pipeline: Pipeline,
        delivery: Delivery,
        admission: Admission,
        breaker: Breaker,
        metrics: Metrics,
        health: Health,
        assignment_changed: Callable[[], None],
        probe: Callable[[], None],
        clock: Clock = monotonic,
        apart: Apart | None = None,
    ) -> None:
        self._consumer, self._topic = consumer, topic
        self._ledger, self._positions, self._pipeline, self._delivery = ledger, positions, pipeline, delivery
        self._admission, self._breaker, self._apart = admission, breaker, apart or Apart()
        self._metrics, self._health = metrics, health
        self._assignment_changed, self._probe, self._clock = assignment_changed, probe, clock
        self._paused = self._changed = False
        self._last_turn = clock()

    def run(self, should_stop: Callable[[], bool], drain_timeout_s: float) -> bool:
        """Work until `should_stop`, then finish what is in flight; True if all of it was delivered.

        Raises:
            ServiceError: Kafka or a topic refuses for good.
            DeviceLost, OutOfMemory: from the model.
        """
        self.start()
        while not should_stop():
            self.turn()
        return self.drain(drain_timeout_s)

    def start(self) -> None:
        """Join the group; partitions come in later turns."""
        self._consumer.subscribe(
            [self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )

    def turn(self) -> None:
        """Go once round the loop; raises as `run` does."""
        level = self._level()
        busy = self._ledger.records > 0
        if level == "open":
            self._pause(False)
            self._read(0.0 if busy else _IDLE_POLL_S)
        elif level == "pause":
            self._pause(True)
            self._read(0.0)
        if (known := self._positions.turn()) and not self._paused:
            self._consumer.resume(_topic_partitions(known))
        if self._changed:
            self._changed = False
            self._assignment_changed()
        self._start_apart()
        self._collect(_BUSY_WAIT_S if busy else 0.0)
        self._delivery.turn()
        self._probe()
        self._measure(level)

    def drain(self, timeout_s: float) -> bool:
        """Read nothing more, finish what is in flight; True if all was delivered in time. Raises as `run` does."""
        deadline = Deadline.after(timeout_s, self._clock)
        self._health.stopping()
        log.info("draining", records=self._ledger.records)
        self._pause(True)
        self._pipeline.drain()
        while self._ledger.records and not deadline.expired:
            self._read(0.0)
            self._start_apart()
            self._collect(min(_BUSY_WAIT_S, deadline.remaining()))
            self._delivery.turn()
            self._measure("open")
        flushed = self._delivery.flush(deadline) and not self._ledger.records
        if not flushed:
            log.warning("drain timed out: these records will be read again", records=self._ledger.records)
        return flushed

    def _level(self) -> Level:
        if self._breaker.room() == 0 or not self._apart.is_empty:
            return "pause"
        return self._admission.level(self._ledger.records, self._ledger.bytes, self._pipeline.queued_tokens)

    # ---- reading ----------------------------------------------------------------------------------------------

    def _read(self, timeout: float) -> None:
        """Poll, which also serves rebalances; then take what else is here already, as far as the budgets let it in.

        The budgets are looked at before each message: one may hold as much as all the others.
        """
        message = self._consumer.poll(timeout)
        until = Deadline.after(_READ_S, self._clock)
        # One by one: `consume` moves a partition's position forward only, so that behind a log that was cut it would
        # stay where it was before, and be committed.
        more = _READ_AT_ONCE
        while message is not None:
            self._receive(message)
            more -= 1
            if not more or self._paused or until.expired or self._level() != "open":
                return
            message = self._consumer.poll(0)

    def _receive(self, message: Message) -> None:
        if (error := message.error()) is not None:
            self._meet(error)
            return
        partition = Partition(str(message.topic()), int(message.partition() or 0))
        offset = int(message.offset() or 0)
        epoch = self._ledger.epoch(partition)
        if epoch is None:  # read just before it was revoked; the next owner reads it again
            return
        if not self._positions.admits(partition, offset):
            return
        if self._ledger.went_back(partition, offset):
            log.warning(
                "the log of a partition was cut or its offset reset", partition=str(partition), to=offset
            )
            self._delivery.forget([partition])
            epoch = self._ledger.cut(partition, offset)
            self._pipeline.discard()
        kind, timestamp = message.timestamp()
        raw = RawMessage(
            source=Source(partition, epoch, offset),
            key=_as_bytes(message.key()),
            value=_as_bytes(message.value()),
            headers=_headers(message),
            timestamp_ms=timestamp if kind and timestamp >= 0 else None,
            received_at=self._clock(),
        )
        self._ledger.receive(raw)
        self._breaker.admitted()
        self._metrics.consumed.inc()
        self._metrics.consumed_bytes.inc(raw.payload_bytes)
        if not self._apart.takes(raw):
            self._pipeline.submit(raw)

    def _meet(self, error: KafkaError) -> None:
        """An error in place of a message: most pass by themselves, and librdkafka tries on."""
        if error.fatal():
            raise KafkaFatal(f"the Kafka consumer failed for good ({error.str()}): restart the service")
        if error.code() in RIGHTS:
            raise missing_right(error)
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            cure = "commit one for the group, or set VIRNUCPRO_KAFKA_AUTO_OFFSET_RESET to earliest"
            raise ServiceError(f"{error.str()}: {cure}")
        if error.code() == KafkaError._AUTHENTICATION:
            raise ServiceError(f"Kafka refuses this client ({error.str()}): check its credentials")
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise ServiceError(f"the topic {self._topic} does not exist any more: create it")
        log.warning("Kafka error", error=error.str(), code=error.name())

    def _pause(self, paused: bool) -> None:
        if paused == self._paused:
            return
        self._paused = paused
        if paused:
            self._consumer.pause(_topic_partitions(self._ledger.assigned))
        else:
            free = [partition for partition in self._ledger.assigned if not self._positions.holds(partition)]
            self._consumer.resume(_topic_partitions(free))
        log.info("paused" if paused else "resumed", records=self._ledger.records, bytes=self._ledger.bytes)

    def _start_apart(self) -> None:
        if (suspect := self._apart.next(self._ledger)) is not None:
            self._pipeline.submit(suspect)

    # ---- results ----------------------------------------------------------------------------------------------

    def _collect(self, timeout: float) -> None:
        for finished in self._pipeline.finished(timeout):
            if self._ledger.finish(finished) is None:
                self._metrics.records.labels("stale").inc()
                continue
            outcome = finished.outcome
            self._breaker.outcome(outcome.reason if isinstance(outcome, Refused) else None)

    def _measure(self, level: str) -> None:
        now = self._clock()
        gap, self._last_turn = now - self._last_turn, now
        self._metrics.loop_gap.observe(gap)
        if level != "open":
            self._metrics.backpressure.labels(level).inc(gap)
        self._metrics.inflight_records.set(self._ledger.records)
        self._metrics.inflight_bytes.set(self._ledger.bytes)
        self._metrics.queued_tokens.set(self._pipeline.queued_tokens)
        oldest = self._ledger.oldest_received_at()
        self._metrics.oldest_seconds.set(now - oldest if oldest is not None else 0)
        self._metrics.held_partitions.set(self._positions.held)
        self._metrics.breaker_open.set(self._breaker.is_open)
        self._health.breaker(self._breaker.is_open)
        self._health.turned()

    # ---- assignment -------------------------------------------------------------------------------------------

    def _assigned(self, consumer: Consumer, topic_partitions: list[TopicPartition]) -> None:
        partitions = _partitions(topic_partitions)
        self._ledger.assign(partitions)
        consumer.incremental_assign(topic_partitions)
        if partitions:
            self._positions.assigned(partitions)
            # The client remembers a pause beyond a revoke: one that has ended is taken back.
            (consumer.pause if self._paused else consumer.resume)(topic_partitions)
        self._rebalanced("assigned", topic_partitions)
        self._changed = True
        self._health.joined()

    def _revoked(self, _: Consumer, topic_partitions: list[TopicPartition]) -> None:
        partitions = _partitions(topic_partitions)
        deadline = Deadline.after(_REVOKE_S, self._clock)
        self._ledger.revoking(partitions)
        self._pipeline.discard()
        while self._pipeline.has_started(partitions) and not deadline.expired:
            self._collect(min(_IDLE_POLL_S, deadline.remaining()))
        self._collect(0.0)
        self._delivery.flush(deadline)
        self._forget(partitions)
        self._rebalanced("revoked", topic_partitions)

    def _lost(self, _: Consumer, topic_partitions: list[TopicPartition]) -> None:
        self._forget(_partitions(topic_partitions))
        self._rebalanced("lost", topic_partitions)

    def _forget(self, partitions: list[Partition]) -> None:
        self._delivery.forget(partitions)
        self._positions.forget(partitions)
        self._ledger.drop(partitions)
        self._pipeline.discard()

    def _rebalanced(self, event: str, topic_partitions: list[TopicPartition]) -> None:
        self._metrics.rebalances.labels(event).inc()
        self._metrics.assigned.set(len(self._ledger.assigned))
        log.info(f"partitions {event}", partitions=[tp.partition for tp in topic_partitions])


def _partitions(topic_partitions: list[TopicPartition]) -> list[Partition]:
    return [Partition(tp.topic, tp.partition) for tp in topic_partitions]


def _topic_partitions(partitions: Iterable[Partition]) -> list[TopicPartition]:
    return [TopicPartition(*partition) for partition in partitions]


def _headers(message: Message[bytes, bytes]) -> Headers:
    headers = headers_of(message)
    if headers is None:
        log.warning(
            "headers left out: a name is not UTF-8", partition=message.partition(), offset=message.offset()
        )
        return ()
    return headers


def _as_bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
