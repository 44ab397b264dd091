"""Consumers and producers of Kafka in memory (tests/simulation/memory_kafka.py), with the methods that the
service calls.

They do what librdkafka was seen to do, where it matters for what may be lost or repeated:

* The consumer's own thread (`MemoryConsumer.heartbeat`) learns of generations and losses at once, the application in
  its next poll. A callback that already waits when the member is lost comes as if nothing had happened.
* Whose committed offset is not known yet when the assignment changes begins at 0.
* The position moves when messages are handed over, past control records too; a pause outlives a revoke.
* A commit that timed out can only be repeated, a transaction that failed only be aborted, and a producer that was
  fenced is over.

Every call takes a little time, and goes by a `Link`, on which a test may put a `Fault`: an error before the call takes
effect, or after it as a lost answer; or anything else that happens in between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import OffsetSpec

from consumer.types import Partition
from tests.simulation.memory_kafka import OFFSET_INVALID, MemoryKafka, Metadata, Record, Transaction, fenced
from tests.support.factories import FakeClock, at_once

T = TypeVar("T")

_CALL_S = 0.001
_TIMEOUT_S = 0.5


def retriable(code: int = KafkaError._TIMED_OUT) -> KafkaError:
    return KafkaError(code, "later", False, True, False)


def abortable(code: int = KafkaError.ILLEGAL_GENERATION) -> KafkaError:
    return KafkaError(code, "abort", False, False, True)


@dataclass(frozen=True, slots=True)
class Fault:
    """What strikes the next call of a name, before it takes effect or after; `strike` may raise."""

    call: str
    strike: Callable[[], object]
    after: bool = False


class Link:
    """A client's way to the broker, and what a test does to it."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.faults: list[Fault] = []
        self.calls: list[str] = []
        self.caller: object = None
        """Which of the clients on this link called last."""
        self.cut_off_until = 0.0
        self.late_polls = 0  # polls without reports still to come

    @property
    def cut_off(self) -> bool:
        """Whether the broker is unreachable now."""
        return self._clock() < self.cut_off_until

    @property
    def is_late(self) -> bool:
        """Whether reports are still outstanding; called once in each poll."""
        self.late_polls = max(-1, self.late_polls - 1)
        return self.late_polls >= 0

    @property
    def is_troubled(self) -> bool:
        return bool(self.faults) or self.cut_off or self.late_polls > 0

    def clear_faults(self) -> None:
        self.faults, self.cut_off_until, self.late_polls = [], 0.0, 0

    def take(self, call: str) -> Fault | None:
        """Note the call; what strikes it, if anything does."""
        self.calls.append(call)
        fault = next((fault for fault in self.faults if fault.call == call), None)
        if fault is not None:
            self.faults.remove(fault)
        return fault


class _Client:
    def __init__(self, kafka: MemoryKafka, link: Link) -> None:
        self._kafka, self.clock, self.link = kafka, kafka.clock, link

    def _call(self, name: str, effect: Callable[[], T]) -> T:
        self.clock.advance(_CALL_S)
        self.link.caller = self
        fault = self.link.take(name)
        if fault is not None and not fault.after:
            fault.strike()
        self._kafka.tick()
        result = effect()
        if fault is not None and fault.after:
            fault.strike()
        return result


class MemoryAdmin:
    """Says which topics there are."""

    def __init__(self, kafka: MemoryKafka) -> None:
        self._kafka = kafka
        self.asked = 0
        self.down = False
        self.log_starts_unknown = False

    def poll(self, timeout: float) -> int:
        return 0

    def list_topics(self, topic: str | None = None, timeout: float = 0) -> SimpleNamespace:
        self.asked += 1
        topics: dict[str, dict[int, None]] = {}
        for partition in self._kafka.logs:
            topics.setdefault(partition.topic, {})[partition.number] = None
        found = {name: SimpleNamespace(partitions=numbers, error=None) for name, numbers in topics.items()}
        return SimpleNamespace(topics=found)

    def describe_topics(
        self, topics: TopicCollection, request_timeout: float
    ) -> dict[str, Future[SimpleNamespace]]:
        """The ids of topics."""

        def describe(topic: str) -> SimpleNamespace:
            if self.down:
                raise KafkaException(retriable())
            return SimpleNamespace(topic_id=self._kafka.topic_ids[topic])

        return {topic: at_once(partial(describe, topic)) for topic in topics.topic_names}

    def list_offsets(
        self, wanted: Mapping[TopicPartition, OffsetSpec], request_timeout: float
    ) -> dict[TopicPartition, Future[SimpleNamespace]]:
        """Where the logs begin."""
        assert all(isinstance(spec, type(OffsetSpec.earliest())) for spec in wanted.values())

        def start(tp: TopicPartition) -> SimpleNamespace:
            if self.down or self.log_starts_unknown:
                raise KafkaException(retriable())
            return SimpleNamespace(offset=self._kafka.starts[Partition(tp.topic, tp.partition)])

        return {tp: at_once(partial(start, tp)) for tp in wanted}


class MemoryMessage:
    """What `poll` returns: a record, or an error in its place."""

    def __init__(
        self, partition: Partition, offset: int, record: Record, error: KafkaError | None = None
    ) -> None:
        self.source, self._offset, self._record, self._error = partition, offset, record, error

    @property
    def is_control(self) -> bool:
        return self._record.control

    def error(self) -> KafkaError | None:
        return self._error

    def topic(self) -> str:
        return self.source.topic

    def partition(self) -> int:
        return self.source.number

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes | None:
        return self._record.key

    def value(self) -> bytes | None:
        return self._record.value

    def headers(self) -> list[tuple[str, bytes | None]]:
        return list(self._record.headers)

    def timestamp(self) -> tuple[int, int]:
        return (1, 1_700_000_000_000)


@dataclass(slots=True)
class _Fetch:
    """How far a partition was fetched (None until the committed offset is known) and handed to the application."""

    next: int | None = None
    position: int = OFFSET_INVALID


class MemoryConsumer(_Client):
    """A member of the group. `heartbeat` is what the client's own thread does; `poll` does it too."""

    def __init__(self, kafka: MemoryKafka, link: Link, on_commit: Callable[..., None]) -> None:
        super().__init__(kafka, link)
        self._on_commit = on_commit
        self._topic = ""
        self._callbacks: dict[str, Callable[..., None]] = {}
        self._member, self._generation = "", -1
        self._owned: dict[Partition, _Fetch] = {}
        self.paused: set[Partition] = set()
        self._known_ids = dict(kafka.topic_ids)
        self.seeks: list[tuple[int, int]] = []  # partition and offset of each
        self._events: deque[tuple[str, frozenset[Partition]]] = deque()  # callbacks for the next poll
        self._added: frozenset[Partition] = frozenset()  # come after the revoke that waits
        self._joining = self._rejoin = self._lost = False
        self._heard_at = self._polled_at = self.clock()
        self._commits: deque[tuple[Metadata, list[TopicPartition]]] = deque()
        self._errors: deque[KafkaError] = deque()
        self._reports: deque[tuple[KafkaError | None, list[TopicPartition]]] = deque()
        self.in_order = (
            False  # the first partition as long as it has messages, as where a fetch holds it alone
        )
        self._turns = 0

    # ---- the client's own thread ----------------------------------------------------------------------------------

    def heartbeat(self) -> None:
        """Tell the group that this member is alive, and hear what it decided."""
        self._kafka.tick()
        if not self._topic or self.link.cut_off:
            self._expire()
            return
        self._send_commits()
        self._find_offsets()
        idle = self.clock() - self._polled_at > self._kafka.max_poll_s
        if idle and self._member:
            self._errors.append(KafkaError(KafkaError._MAX_POLL_EXCEEDED))
            self._kafka.group.leave(self._member)
            self._lose()
        elif self._joining:
            self._hear_of_joining()
        elif not self._member:
            if not self._events and not idle:
                self._join()
        elif (news := self._kafka.group.heartbeat(self._member)) == "unknown":
            self._lose()
        elif (news == "rebalancing" or self._rejoin) and not self._events:
            self._join()
        self._heard_at = self.clock()

    def _join(self) -> None:
        partitions = self._kafka.partitions(self._topic)
        self._member = self._kafka.group.join(self._member, partitions, self._owned, self._generation)
        self._joining, self._rejoin = True, False
        self._hear_of_joining()

    def _hear_of_joining(self) -> None:
        match self._kafka.group.joined(self._member):
            case "unknown":
                self._lose()
            case "again":
                self._join()
            case (generation, assignment):
                self._joining, self._generation = False, generation
                revoked, added = frozenset(self._owned) - assignment, assignment - frozenset(self._owned)
                self._added = added if revoked else frozenset()
                self._events.append(("revoke", revoked) if revoked else ("assign", added))

    def _lose(self) -> None:
        """The group has put this member out. A callback that waits comes first, as if it had not."""
        self._member, self._joining, self._rejoin = "", False, False
        self._lost = True
        self._announce_loss()

    def _announce_loss(self) -> None:
        if self._lost and not self._events:
            self._lost = False
            if self._owned:
                self._events.append(("lost", frozenset(self._owned)))

    def _expire(self) -> None:
        """Without an answer for as long as a session lasts, the client knows what the group has done."""
        if self._member and self.clock() - self._heard_at > self._kafka.session_s:
            self._lose()

    def _find_offsets(self) -> None:
        for partition, fetch in self._owned.items():
            if fetch.next is None and (offset := self._kafka.committed_offset(partition)) is not None:
                fetch.next = max(0, offset)  # auto.offset.reset is earliest

    def _send_commits(self) -> None:
        while self._commits:
            who, offsets = self._commits.popleft()
            try:
                error = self._call("commit_async", partial(self._commit, who, offsets))
            except KafkaException as raised:
                error = raised.args[0]
            self._reports.append((error, offsets))

    def _commit(self, who: Metadata, offsets: list[TopicPartition]) -> KafkaError | None:
        if (code := self._kafka.group.refusal(who, in_transaction=False)) is not None:
            return KafkaError(code)
        self._kafka.group.committed.update({Partition(tp.topic, tp.partition): tp.offset for tp in offsets})
        return None

    # ---- the application's calls ----------------------------------------------------------------------------------

    def queue_error(self, error: KafkaError) -> None:
        """Return this error from `poll` in place of the next message."""
        self._errors.append(error)

    def subscribe(self, topics: list[str], **callbacks: Callable[..., None]) -> None:
        (self._topic,) = topics
        self._callbacks = callbacks

    def poll(self, timeout: float) -> MemoryMessage | None:
        self._polled_at = self.clock()
        found = self._call("poll", self._serve_and_take)
        if found is None and timeout > 0:
            self.clock.advance(timeout)
        return found

    def position(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        fetches = [self._owned.get(Partition(tp.topic, tp.partition), _Fetch()) for tp in partitions]
        return [
            TopicPartition(tp.topic, tp.partition, fetch.position)
            for tp, fetch in zip(partitions, fetches, strict=True)
        ]

    def get_watermark_offsets(self, partition: TopicPartition, *, cached: bool) -> tuple[int, int]:
        """As the client answers from memory: nothing before the first fetch."""
        place = Partition(partition.topic, partition.partition)
        fetch = self._owned.get(place)
        if fetch is None or fetch.next is None:
            return (OFFSET_INVALID, OFFSET_INVALID)
        return (self._kafka.starts.get(place, 0), len(self._kafka.logs[place]))

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        def effect() -> list[TopicPartition]:
            offsets = [self._kafka.committed_offset(Partition(tp.topic, tp.partition)) for tp in partitions]
            if self.link.cut_off or None in offsets:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            found = zip(partitions, offsets, strict=True)
            return [
                TopicPartition(tp.topic, tp.partition, OFFSET_INVALID if offset is None else offset)
                for tp, offset in found
            ]

        return self._call("committed", effect)

    def seek(self, partition: TopicPartition) -> None:
        def effect() -> None:
            fetch = self._owned.get(Partition(partition.topic, partition.partition))
            if fetch is None or fetch.next is None:
                raise KafkaException(KafkaError(KafkaError._STATE, "Failed to seek: Local: Erroneous state"))
            fetch.next = partition.offset
            self.seeks.append((partition.partition, partition.offset))

        self._call("seek", effect)

    def pause(self, partitions: list[TopicPartition]) -> None:
        self.paused |= {Partition(tp.topic, tp.partition) for tp in partitions}

    def resume(self, partitions: list[TopicPartition]) -> None:
        self.paused -= {Partition(tp.topic, tp.partition) for tp in partitions}

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        self._owned.update({Partition(tp.topic, tp.partition): _Fetch() for tp in partitions})

    def consumer_group_metadata(self) -> Metadata:
        return self._call("consumer_group_metadata", lambda: Metadata(self._member, self._generation))

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition] | None:
        who = Metadata(self._member, self._generation)
        if asynchronous:
            self._commits.append((who, offsets))
            return None

        def effect() -> list[TopicPartition]:
            if self.link.cut_off:
                self.clock.advance(_TIMEOUT_S)
                raise KafkaException(retriable(KafkaError._TRANSPORT))
            self._send_commits()
            if (error := self._commit(who, offsets)) is not None:
                raise KafkaException(error)
            return offsets

        return self._call("commit", effect)

    def close(self) -> None:
        """Give up what is owned, by the callback, and leave."""
        self._serve()
        if self._owned:
            self._events.append(("revoke", frozenset(self._owned)))
            self._serve_event()
        self._kafka.group.leave(self._member)
        self._topic = self._member = ""

    def _serve_and_take(self) -> MemoryMessage | None:
        self.heartbeat()
        self._serve()
        if self._errors:
            return MemoryMessage(Partition(self._topic, 0), -1, Record(), self._errors.popleft())
        found = self._hand_over(self._take(1))
        return found[0] if found else None

    def _serve(self) -> None:
        while self._reports and not self.link.is_late:
            self._on_commit(*self._reports.popleft())
        while self._events:
            self._serve_event()
            self._find_offsets()

    def _serve_event(self) -> None:
        event, partitions = self._events[0]  # waits until it has been served: no rebalance goes on meanwhile
        for fetch in self._owned.values():
            fetch.next = fetch.next or 0
        ordered = sorted(partitions)
        self._callbacks[f"on_{event}"](self, [TopicPartition(*partition) for partition in ordered])
        self._events.popleft()
        if event == "assign":
            assert partitions <= self._owned.keys(), "assigned, and the application did not take it"
        else:
            self._rejoin = event == "revoke"
            for partition in partitions:
                self._owned.pop(partition, None)
            if self._added:
                self._events.append(("assign", self._added))
                self._added = frozenset()
        self._announce_loss()

    def _take(self, limit: int) -> list[MemoryMessage]:
        """Messages off the partitions in turns or in order, up to a number, and the control records among them."""
        found: list[MemoryMessage] = []
        self._turns += 1
        owned = sorted(self._owned)
        first = 0 if self.in_order else self._turns % max(1, len(owned))
        for partition in owned[first:] + owned[:first]:
            fetch, log = self._owned[partition], self._kafka.logs[partition]
            if fetch.next is not None:  # out of range: auto.offset.reset is earliest
                start = self._kafka.starts[partition]
                fetch.next = start if fetch.next > len(log) else max(fetch.next, start)
            topic = partition.topic
            is_outdated = self._known_ids[topic] < self._kafka.first_readable_id.get(topic, 0)
            is_silent = self.link.cut_off or partition in self.paused or is_outdated
            end = 0 if is_silent else self._kafka.stable_end(partition)
            while fetch.next is not None and fetch.next < end and limit > 0:
                offset, record = fetch.next, log[fetch.next]
                fetch.next += 1
                limit -= record.committed
                if record.committed or record.control:
                    found.append(MemoryMessage(partition, offset, record))
        return found

    def _hand_over(self, taken: list[MemoryMessage]) -> list[MemoryMessage]:
        for message in taken:
            self._owned[message.source].position = message.offset() + 1
        return [message for message in taken if not message.is_control]


class MemoryProducer(_Client):
    """Idempotent; with a transactional id, transactional. It sends in `poll` and in `commit_transaction`."""

    def __init__(self, kafka: MemoryKafka, link: Link, transactional_id: str | None, room: int) -> None:
        super().__init__(kafka, link)
        self._id, self._room = transactional_id, room
        self._epoch = -1
        self._state = "new"  # then ready, open, committing, failed (to be aborted), aborting; or fatal
        self._error: KafkaError | None = None
        self._queue: deque[tuple[Partition, Record, Callable[..., None]]] = deque()
        self._reports: deque[Callable[[], None]] = deque()
        self.is_busy = False  # a call of the transactional API has not come back
        self._ended = False  # the broker has ended the transaction, though the answer may be lost
        # The next batches fail, though the broker has them (True) or not.
        self.lost_batches: deque[bool] = deque()

    @property
    def is_fenced(self) -> bool:
        return self._state == "fatal"

    @property
    def has_open_transaction(self) -> bool:
        return self._id is not None and self._kafka.has_open_transaction(self._id, self._epoch)

    def produce(
        self,
        topic: str,
        value: bytes | None,
        on_delivery: Callable[..., None],
        partition: int,
        key: bytes | None = None,
        headers: Iterable[tuple[str, bytes | None]] = (),
        timestamp: int | None = None,
    ) -> None:
        self._call("produce", lambda: None)
        if self._state == "fatal":
            raise KafkaException(KafkaError(KafkaError._FATAL, "fenced", True))
        if self._id is not None and self._state != "open":
            raise KafkaException(KafkaError(KafkaError._STATE, f"produced while {self._state}"))
        if len(self._queue) + len(self._reports) >= self._room:
            raise BufferError("queue full")
        record = Record(key, value, tuple(headers), timestamp_ms=timestamp)
        self._queue.append((Partition(topic, partition), record, on_delivery))

    def list_topics(self, timeout: float) -> None:
        """Has the client look at all topics."""
        self._call("list_topics", lambda: None)

    def poll(self, timeout: float) -> int:
        self._call("producer_poll", self.send)
        served = self._report()
        if not served:
            self.clock.advance(timeout)
        return served

    def init_transactions(self, timeout: float) -> None:
        def effect() -> None:
            self._require("new", "ready")
            self._reach()
            self._epoch = self._kafka.new_epoch(self._name)
            self._state = "ready"

        self._call("init_transactions", effect)

    def begin_transaction(self) -> None:
        def effect() -> None:
            self._require("ready")
            self._state, self._ended = "open", False

        self._call("begin_transaction", effect)

    def send_offsets_to_transaction(
        self, offsets: list[TopicPartition], who: Metadata, timeout: float
    ) -> None:
        def effect() -> None:
            self._require("open")
            self._reach()
            transaction = self._transaction()
            if (code := self._kafka.group.refusal(who, in_transaction=True)) is not None:
                self.fail_transaction(code)
            transaction.offsets.update({Partition(tp.topic, tp.partition): tp.offset for tp in offsets})

        self._call("send_offsets_to_transaction", effect)

    def commit_transaction(self, timeout: float) -> None:
        def effect() -> None:
            self._require("open", "committing")
            self._state = "committing"
            self._reach()
            self.send()
            self._report()
            self._require("committing")
            if self._reports:
                self._time_out()
            self._end("committed")

        self._call("commit_transaction", effect)
        self._state = "ready"  # not before the answer is here: until then the call is to be repeated

    def abort_transaction(self, timeout: float) -> None:
        def effect() -> None:
            self._require("open", "aborting", "failed")
            self._reach()
            self._state = "aborting"
            for _, _, on_delivery in self._queue:
                self._reports.append(partial(on_delivery, KafkaError(KafkaError._PURGE_QUEUE), None))
            self._queue.clear()
            self._end("aborted")

        self._call("abort_transaction", effect)
        self._state = "ready"

    def fail_transaction(self, code: int) -> None:
        """Leave the transaction nothing but to be aborted, while the broker has not committed it."""
        if self._state in ("open", "committing") and not self._ended:
            self._state, self._error = "failed", abortable(code)
            raise KafkaException(self._error)

    def send(self) -> None:
        """Hand the queue to the broker, a batch for each partition."""
        if self.link.cut_off:
            return
        batches: dict[Partition, list[tuple[Record, Callable[..., None]]]] = {}
        for partition, record, on_delivery in self._queue:
            batches.setdefault(partition, []).append((record, on_delivery))
        self._queue.clear()
        for partition, batch in batches.items():
            error = self._append(partition, [record for record, _ in batch])
            self._reports += [partial(on_delivery, error, None) for _, on_delivery in batch]

    # ---- within ---------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        assert self._id is not None, "not a transactional producer"
        return self._id

    def _append(self, partition: Partition, records: list[Record]) -> KafkaError | None:
        if self._state == "fatal":
            return KafkaError(KafkaError._FATAL, "fenced", True)
        lost = self.lost_batches.popleft() if self.lost_batches else None
        error = None
        try:
            if self._id is not None:
                transaction = self._transaction()
                transaction.partitions.add(partition)
                for record in records:
                    record.transaction = transaction
            if lost is not False:
                error = self._kafka.append(partition, records)
            if lost is not None:
                error = KafkaError(KafkaError._MSG_TIMED_OUT)
            if error is not None and self._id is not None:
                self.fail_transaction(error.code())
        except KafkaException as raised:
            return raised.args[0] if self._state == "fatal" else error
        return error

    def _report(self) -> int:
        if self.link.is_late:
            return 0
        reports, self._reports = self._reports, deque()
        for report in reports:
            report()
        return len(reports)

    def _transaction(self) -> Transaction:
        try:
            return self._kafka.transaction(self._name, self._epoch)
        except KafkaException:
            self._state = "fatal"
            raise

    def _end(self, state: str) -> None:
        try:
            self._kafka.end_transaction(self._name, self._epoch, state)
        except KafkaException:
            self._state = "fatal"
            raise
        self._ended = True

    def _require(self, *states: str) -> None:
        if self.is_busy:
            raise KafkaException(KafkaError(KafkaError._CONFLICT, "another call is on its way"))
        if self._state == "fatal":
            raise KafkaException(fenced())
        if self._state == "failed" and self._error is not None and "failed" not in states:
            raise KafkaException(self._error)
        if self._state not in states:
            raise KafkaException(KafkaError(KafkaError._STATE, f"{self._state}, not {' or '.join(states)}"))

    def _reach(self) -> None:
        if self.link.cut_off:
            self._time_out()

    def _time_out(self) -> None:
        self.clock.advance(_TIMEOUT_S)
        raise KafkaException(retriable())
