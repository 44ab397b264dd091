"""The service's loop, on the thread that owns the Kafka clients.

Each turn: read what the intake allows, for a fifth of a second at most, collect what the pipeline has finished, let
delivery go one step on. The turn never waits for work, and for Kafka a second at most, so rebalances are answered in
time.

Partitions come and go (`_assigned`, `_revoked`, `_lost` run inside `poll`, on this thread):

* assigned  a new epoch begins; nothing else changes, what runs goes on running.
* revoked   at least once: what has not been started is dropped, what runs is finished, delivered and committed, all
            within one deadline; what is not done by then is done again by the next owner. Exactly once: all that is
            not in a transaction under way is left to the next owner (`Delivery.commits_in_a_revoke`).
* lost      the group has given the partitions away already: nothing of them may be committed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumer.clock import Clock, Deadline, monotonic
from consumer.delivery.contract import Delivery
from consumer.intake.intake import Intake
from consumer.kafka.cluster import Cluster
from consumer.kafka.error_table import consumer_error
from consumer.kafka.renewable_consumer import RenewableConsumer
from consumer.ops.events import (
    ConsumerError,
    Drained,
    Draining,
    MessageRead,
    Paused,
    Rebalanced,
    ResultStale,
    Resumed,
    TopicRecreated,
    Turned,
)
from consumer.ops.listeners import LoopObserver
from consumer.scoring.pipeline import Pipeline
from consumer.stage_times import StageTimes
from consumer.types import InFlight, Level, Limit, Partition

_IDLE_POLL_S = 0.05
_BUSY_WAIT_S = 0.01
_READ_AT_ONCE = 500
_READ_S = 0.2
_REVOKE_S = 5.0
_STAGES = ("other", "wait", "read", "collect", "deliver")


class Service:
    """Ties consumer, pipeline and delivery together; `run` returns when it was asked to stop and has drained.

    `run` is `start`, then `turn` after `turn`, then `drain`; a test may take them one by one.
    """

    def __init__(
        self,
        consumer: RenewableConsumer,
        intake: Intake,
        pipeline: Pipeline,
        delivery: Delivery,
        cluster: Cluster,
        observer: LoopObserver,
        clock: Clock = monotonic,
    ) -> None:
        self._consumer, self._intake, self._pipeline = consumer, intake, pipeline
        self._delivery, self._cluster, self._observer, self._clock = delivery, cluster, observer, clock
        self._paused = self._changed = self._renewing = False
        # When each partition was assigned, and until when the input topic was the known one; in the clock's seconds.
        self._assigned_at: dict[Partition, float] = {}
        self._known_at = -math.inf
        # What was committed for them may be of an input topic that is gone.
        self._rewinding: frozenset[Partition] = frozenset()
        # Paused one by one while others are read.
        self._blocked: frozenset[Partition] = frozenset()
        self._last_turn = clock()
        self._topic = ""
        self.stage_times = StageTimes("loop", _STAGES, clock)

    def run(self, topic: str, should_stop: Callable[[], bool], drain_timeout_s: float) -> bool:
        """Work until `should_stop`, then finish what is in flight; True if all of it was delivered.

        Raises:
            ServiceError: Kafka or a topic refuses, and will go on refusing.
            DeviceLost, OutOfMemory: from the model.
        """
        self.start(topic)
        while not should_stop():
            self.turn()
        return self.drain(drain_timeout_s)

    def start(self, topic: str) -> None:
        """Join the group as a reader of this topic; partitions come in later turns."""
        self._topic = topic
        self._consumer.subscribe(
            [topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )

    def turn(self) -> None:
        """Go once round the loop; raises as `run` does."""
        if self._renewing and not self._renew():
            self._wait_to_renew()
            return
        level = self._level()
        busy = self._intake.records > 0
        if level == "open":
            self._pause(None)
            self._read(0.0 if busy else _IDLE_POLL_S)
        elif level == "pause":
            self._pause(self._intake.limit)
            self._read(0.0)
        self.stage_times.enter("other")
        if (known := self._intake.turn()) and not self._paused:
            self._consumer.resume(_topic_partitions(known - self._blocked))
        if self._changed:
            self._changed = False
            self._cluster.refresh()
        self._start_suspect()
        self._collect(_BUSY_WAIT_S if busy else 0.0)
        self._deliver()
        self.stage_times.enter("other")
        self._cluster.turn()
        self._turned(level)

    def drain(self, timeout_s: float) -> bool:
        """Read nothing more, drop what has not been started and finish what has, which is delivered and committed.

        What is dropped is read again by the next owner of its partition. Raises as `run` does.

        Returns:
            Whether all that had been started was delivered in time.
        """
        deadline = Deadline.after(timeout_s, self._clock)
        self._observer.happened(Draining(self._in_flight))
        self._pause("draining")
        self._intake.revoke(self._intake.assigned)
        self._pipeline.discard()
        self._pipeline.drain()
        while self._pipeline.has_started(self._intake.assigned) and not deadline.expired:
            self._read(0.0)
            self._collect(min(_BUSY_WAIT_S, deadline.remaining()))
            self._deliver()
            self._turned("open")
        self._collect(0.0)
        # A commit may fail for a moment, while the group's coordinator changes.
        while not (flushed := self._flush(deadline) and self._intake.is_delivered) and not deadline.expired:
            self._read(_IDLE_POLL_S)
        flushed = flushed and not self._pipeline.has_started(self._intake.assigned)
        self._observer.happened(Drained(flushed, self._in_flight))
        return flushed

    @property
    def _in_flight(self) -> InFlight:
        return InFlight(self._intake.records, self._intake.bytes, self._pipeline.queued_tokens)

    def _level(self) -> Level:
        return self._intake.level(self._pipeline)

    def _read(self, timeout: float) -> None:
        """Poll, which also serves rebalances; then take what else is here already, as far as the budgets let it in.

        The budgets are looked at before each message: one may hold as much as all the others.
        """
        self.stage_times.enter("wait" if timeout else "read")
        message = self._consumer.poll(timeout)
        self.stage_times.enter("read")
        until = Deadline.after(_READ_S, self._clock)
        # One by one: `consume` moves a partition's position forward only, so that behind a log that was cut it would
        # stay where it was before, and be committed.
        more = _READ_AT_ONCE
        while message is not None:
            self._receive(message)
            more -= 1
            if not more or self._paused or until.expired or not self._intake.reads_on(self._pipeline):
                return
            self._block(self._intake.blocked)
            message = self._consumer.poll(0)

    def _receive(self, message: Message) -> None:
        if (error := message.error()) is not None:
            self._on_consumer_error(error)
        elif (raw := self._intake.accept(message)) is not None:
            self._observer.happened(MessageRead(raw))
            if not self._intake.sets_apart(raw):
                self._pipeline.submit(raw)

    def _start_suspect(self) -> None:
        if (suspect := self._intake.next_suspect()) is not None:
            self._pipeline.submit(suspect)

    def _on_consumer_error(self, error: KafkaError) -> None:
        """`poll` returned an error. Most are transient: librdkafka retries."""
        if (ending := consumer_error(error)) is not None:
            raise ending
        self._observer.happened(ConsumerError(error))

    def _pause(self, limit: Limit | None) -> None:
        """Pause all partitions because of `limit`, or with None resume them; nothing if they are so already."""
        if (limit is not None) != self._paused:
            self._paused = limit is not None
            if limit is None:
                self._blocked = self._intake.blocked
                self._consumer.resume(_topic_partitions(self._intake.readable() - self._blocked))
                self._observer.happened(Resumed(self._in_flight))
            else:
                self._consumer.pause(_topic_partitions(self._intake.assigned))
                self._observer.happened(Paused(limit, self._in_flight))
        elif not self._paused:
            self._block(self._intake.blocked)

    def _block(self, blocked: frozenset[Partition]) -> None:
        """While partitions are read: pause those of them that hold their share, and resume those that no longer do."""
        if blocked == self._blocked:
            return
        freed = (self._blocked - blocked) & self._intake.readable()
        held, self._blocked = blocked - self._blocked, blocked
        if held:
            self._consumer.pause(_topic_partitions(held))
        if freed:
            self._consumer.resume(_topic_partitions(freed))

    def _collect(self, timeout: float) -> None:
        self.stage_times.enter("wait")
        all_finished = self._pipeline.finished(timeout)
        self.stage_times.enter("collect")
        for finished in all_finished:
            if not self._intake.finish(finished):
                self._observer.happened(ResultStale(finished.source))

    def _deliver(self) -> None:
        """One step of delivery, unless what would be committed lies behind input that may have been deleted unread."""
        self.stage_times.enter("deliver")
        self._watch_topics()
        if self._intake.settle():
            self._delivery.turn()

    def _flush(self, deadline: Deadline) -> bool:
        """Deliver and commit what is finished, once it is known to be of the topic that is there."""
        now = self._clock()
        self.stage_times.enter("deliver")
        self._watch_topics()
        while self._intake.records and self._cluster.confirmed_at < now and not deadline.expired:
            self._collect(_BUSY_WAIT_S)
            self._watch_topics()
        return self._intake.settle() and self._delivery.flush(deadline)

    def _watch_topics(self) -> None:
        for topic in self._cluster.made_again(self._intake.records > 0, self._intake.is_unconfirmed):
            self._observer.happened(TopicRecreated(topic, self._intake.begin_again(topic)))
            self._delivery.renew()
            self._changed = True
            if topic == self._topic:
                # Not now: this may run in a callback of the consumer.
                self._renewing = True
                # The others may have been assigned when the topic was the new one already, and their former owner may
                # have committed offsets of it. The broker has deleted those of the old topic together with it.
                old = {each for each, since in self._assigned_at.items() if since <= self._known_at}
                self._rewinding |= old
        self._known_at = max(self._known_at, self._cluster.confirmed_at)
        self._intake.confirm(self._cluster.confirmed_at)

    def _renew(self) -> bool:
        """Go on with a new client, since the input topic was created again (`consumer/kafka/renewable_consumer.py`).

        Whoever gets the partitions then begins those at their first messages that were of the old topic when they were
        assigned: offsets of that one may have been committed for the new one, by a transaction that was under way.

        Returns:
            Whether it was possible.
        """
        if not self._delivery.flush(Deadline.after(_REVOKE_S, self._clock)):
            return False
        try:
            if firsts := [TopicPartition(*partition, 0) for partition in self._rewinding]:
                self._consumer.commit(firsts, asynchronous=False)
        except KafkaException as error:  # most likely a rebalance; it is tried again in the next turn
            self._on_consumer_error(error.args[0])
            return False
        self._renewing, self._rewinding = False, frozenset()
        self._consumer.renew()
        return True

    def _wait_to_renew(self) -> None:
        """Serve rebalances. What would be read now, and answered, would be answered again by the new client."""
        self.stage_times.enter("wait")
        message = self._consumer.poll(_IDLE_POLL_S)
        if message is not None and (error := message.error()) is not None:
            self._on_consumer_error(error)
        self._collect(0.0)
        self._cluster.turn()
        self._turned("pause")

    def _turned(self, level: Level) -> None:
        now = self._clock()
        gap, self._last_turn = now - self._last_turn, now
        self._observer.happened(Turned(gap, level, self._intake.oldest_s()))

    def _assigned(self, consumer: Consumer, topic_partitions: list[TopicPartition]) -> None:
        partitions = _partitions(topic_partitions)
        self._intake.assign(partitions)
        self._assigned_at |= dict.fromkeys(partitions, self._clock())
        consumer.incremental_assign(topic_partitions)
        if topic_partitions:
            # The client remembers a pause beyond a revoke: one that has ended is taken back.
            (consumer.pause if self._paused else consumer.resume)(topic_partitions)
        self._rebalanced("assigned", topic_partitions)
        self._changed = True

    def _revoked(self, _: Consumer, topic_partitions: list[TopicPartition]) -> None:
        partitions = _partitions(topic_partitions)
        deadline = Deadline.after(_REVOKE_S, self._clock)
        if self._delivery.commits_in_a_revoke:
            self._intake.revoke(partitions)
            self._pipeline.discard()
            while self._pipeline.has_started(partitions) and not deadline.expired:
                self._collect(min(_IDLE_POLL_S, deadline.remaining()))
            self._collect(0.0)
            self._flush(deadline)
        self._forget(partitions)
        self._rebalanced("revoked", topic_partitions)

    def _lost(self, _: Consumer, topic_partitions: list[TopicPartition]) -> None:
        self._forget(_partitions(topic_partitions))
        self._rebalanced("lost", topic_partitions)

    def _forget(self, partitions: list[Partition]) -> None:
        self._blocked -= frozenset(partitions)
        self._rewinding -= frozenset(partitions)
        for partition in partitions:
            self._assigned_at.pop(partition, None)
        self._intake.forget(partitions)

    def _rebalanced(
        self, kind: Literal["assigned", "revoked", "lost"], topic_partitions: list[TopicPartition]
    ) -> None:
        self.stage_times.enter("read")
        self._observer.happened(Rebalanced(kind, tuple(_partitions(topic_partitions))))


def _partitions(topic_partitions: list[TopicPartition]) -> list[Partition]:
    return [Partition(tp.topic, tp.partition) for tp in topic_partitions]


def _topic_partitions(partitions: Iterable[Partition]) -> list[TopicPartition]:
    return [TopicPartition(*partition) for partition in partitions]
