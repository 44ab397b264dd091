"""Kafka in memory, on one thread and on a clock that the test moves: a broker, its consumers and its producers.

The clients have the methods of confluent_kafka that the service calls. What a real broker (Apache Kafka, classic
groups) and librdkafka were seen to do is done here, where it matters for what may be lost or repeated:

* The broker checks who commits offsets by member and generation alone. Which partitions the member owns, and whether
  an offset goes back, it does not check; a commit without member and generation it checks not at all in a transaction.
* Offsets in a transaction count when it commits. Until then nobody can read the committed offset of that partition.
* A transactional id has one live producer: a later one, or the transaction's timeout, fences the earlier for good.
* The group is cooperative: a partition goes to another member after its owner has given it up, in the rebalance
  after. A member that is not heard of loses all it has, and learns it later than everybody else.
* The consumer's own thread learns of generations and losses at once (`MemoryConsumer.heartbeat`), the application in
  its next poll. A callback that already waits when the member is lost comes as if nothing had happened.
* The position moves when messages are handed over, past control records too; a pause outlives a revoke.

Every call that reaches the broker takes a little time, and a test may put a `Fault` on it: an error before the call
takes effect, or after it as a lost answer; or anything else that happens in between.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from consumer.work import Partition
from tests.factories import FakeClock

T = TypeVar("T")
Strike = Callable[[], object]

_CALL_S = 0.001
_TIMEOUT_S = 0.5


def retriable(code: int = KafkaError._TIMED_OUT) -> KafkaError:
    return KafkaError(code, "later", False, True, False)


def abortable(code: int = KafkaError.ILLEGAL_GENERATION) -> KafkaError:
    return KafkaError(code, "abort", False, False, True)


def fenced() -> KafkaError:
    return KafkaError(KafkaError._FENCED, "fenced", True, False, False)


# ---- the broker ---------------------------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Transaction:
    """Open, then committed or aborted; `offsets` are the group's, and count when it commits."""

    begun_at: float
    state: str = "open"
    partitions: set[Partition] = field(default_factory=set)
    offsets: dict[Partition, int] = field(default_factory=dict)


@dataclass(slots=True)
class Record:
    """One place in a log. A control record ends a transaction and is shown to nobody."""

    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    transaction: Transaction | None = None
    control: bool = False

    @property
    def committed(self) -> bool:
        return not self.control and (self.transaction is None or self.transaction.state == "committed")


@dataclass(slots=True)
class _TransactionalId:
    epoch: int = -1
    transaction: Transaction | None = None


class Metadata(NamedTuple):
    """What a consumer says of itself when offsets are sent in a transaction."""

    member: str
    generation: int


class MemoryKafka:
    """The broker: logs, one consumer group, transactional ids.

    Args:
        topics: how many partitions each has.
        session_s: a member not heard of for so long is out; also how long a rebalance waits for its members.
        max_poll_s: a consumer that is not polled for so long leaves by itself.
        transaction_s: a transaction open for so long is aborted.
        max_message_bytes: a batch with a larger value is refused.
    """

    def __init__(
        self,
        clock: FakeClock,
        topics: Mapping[str, int],
        session_s: float = 10.0,
        max_poll_s: float = 60.0,
        transaction_s: float = 10.0,
        max_message_bytes: int = 1_000_000,
    ) -> None:
        self.clock = clock
        self.logs: dict[Partition, list[Record]] = {
            Partition(topic, number): []
            for topic, partitions in topics.items()
            for number in range(partitions)
        }
        self.group = Group(clock, session_s)
        self.session_s, self.max_poll_s, self._transaction_s = session_s, max_poll_s, transaction_s
        self.max_message_bytes = max_message_bytes
        self._ids: dict[str, _TransactionalId] = defaultdict(_TransactionalId)

    def consumer(self, on_commit: Callable[..., None]) -> MemoryConsumer:
        return MemoryConsumer(self, on_commit)

    def producer(self, transactional_id: str | None = None, room: int = 1000) -> MemoryProducer:
        return MemoryProducer(self, transactional_id, room)

    def tick(self) -> None:
        """What the passing of time does: abort old transactions, put silent members out."""
        for owner in self._ids.values():
            held = owner.transaction
            if held is not None and self.clock() - held.begun_at >= self._transaction_s:
                self._end(owner, "aborted")
                owner.epoch += 1
        self.group.tick()

    def partitions(self, topic: str) -> list[Partition]:
        return [partition for partition in self.logs if partition.topic == topic]

    def records(self, topic: str) -> list[tuple[Partition, int, Record]]:
        """All of a topic that does not belong to an open or aborted transaction."""
        return [
            (partition, offset, record)
            for partition in self.partitions(topic)
            for offset, record in enumerate(self.logs[partition])
            if record.committed
        ]

    def stable_end(self, partition: Partition) -> int:
        """How far a read_committed reader gets: up to the first open transaction."""
        log = self.logs[partition]
        open_at = (
            o for o, r in enumerate(log) if r.transaction is not None and r.transaction.state == "open"
        )
        return next(open_at, len(log))

    @property
    def open_transactions(self) -> list[str]:
        return [name for name, owner in self._ids.items() if owner.transaction is not None]

    def write(self, partition: Partition, values: Iterable[bytes], aborted: bool = False) -> None:
        """Fill an input topic; aborted records leave a gap with a control record at its end."""
        transaction = Transaction(self.clock()) if aborted else None
        self.logs[partition] += [Record(b"key", value, (), transaction) for value in values]
        if transaction is not None:
            transaction.state = "aborted"
            self.logs[partition].append(Record(transaction=transaction, control=True))

    # ---- what clients ask -----------------------------------------------------------------------------------------

    def append(self, partition: Partition, records: list[Record]) -> KafkaError | None:
        """Take a batch whole, or refuse it whole."""
        if partition not in self.logs:
            return KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
        if any(len(record.value or b"") > self.max_message_bytes for record in records):
            return KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
        self.logs[partition] += records
        return None

    def new_epoch(self, name: str) -> int:
        owner = self._ids[name]
        if owner.transaction is not None:
            self._end(owner, "aborted")
        owner.epoch += 1
        return owner.epoch

    def transaction(self, name: str, epoch: int) -> Transaction:
        """The open transaction of an id, begun now if there is none.

        Raises:
            KafkaException: a later producer has the id, or the transaction took too long.
        """
        owner = self._owner(name, epoch)
        owner.transaction = owner.transaction or Transaction(self.clock())
        return owner.transaction

    def end_transaction(self, name: str, epoch: int, state: str) -> None:
        owner = self._owner(name, epoch)
        if owner.transaction is not None:
            self._end(owner, state)

    def committed_offset(self, partition: Partition) -> int | None:
        """Where a new owner begins to read, or None while a transaction is about to move that."""
        held = (owner.transaction for owner in self._ids.values() if owner.transaction is not None)
        if any(partition in transaction.offsets for transaction in held):
            return None
        return self.group.committed.get(partition, 0)

    def _owner(self, name: str, epoch: int) -> _TransactionalId:
        owner = self._ids[name]
        if owner.epoch != epoch:
            raise KafkaException(fenced())
        return owner

    def _end(self, owner: _TransactionalId, state: str) -> None:
        ended, owner.transaction = owner.transaction, None
        assert ended is not None
        ended.state = state
        for partition in ended.partitions:
            self.logs[partition].append(Record(transaction=ended, control=True))
        if state == "committed":
            self.group.committed.update(ended.offsets)


@dataclass(slots=True)
class _Member:
    expires_at: float
    claims: frozenset[Partition]
    claimed_in: int
    assignment: frozenset[Partition] = frozenset()


class Group:
    """The coordinator of one consumer group, and its assignor.

    Each partition's place among the members is its number plus its `shift`: a test moves one by changing that.
    """

    def __init__(self, clock: FakeClock, session_s: float) -> None:
        self._clock, self._session_s = clock, session_s
        self._members: dict[str, _Member] = {}
        self._partitions: list[Partition] = []
        self._awaited: set[str] | None = (
            None  # members that have yet to join again; None while there is no rebalance
        )
        self._until = 0.0
        self._names = count(1)
        self.generation = 0
        self.committed: dict[Partition, int] = {}
        self.shift: dict[Partition, int] = defaultdict(int)

    def move(self, partitions: Iterable[Partition]) -> None:
        """Have these partitions assigned to the next member each, as a change of anything might."""
        for partition in partitions:
            self.shift[partition] += 1
        self._rebalance()

    def tick(self) -> None:
        now = self._clock()
        for name, member in list(self._members.items()):
            has_joined = self._awaited is not None and name not in self._awaited
            if not has_joined and member.expires_at <= now:
                self.leave(name)
        if self._awaited and now >= self._until:
            for name in list(self._awaited):
                self.leave(name)

    def join(
        self, name: str, partitions: list[Partition], claims: Iterable[Partition], generation: int
    ) -> str:
        """Enter, or enter again; returns the member's name. The answer comes when all have: see `joined`."""
        self._partitions = partitions
        self._rebalance()
        name = name or f"member-{next(self._names)}"
        self._members[name] = _Member(self._clock() + self._session_s, frozenset(claims), generation)
        self._awaited = (self._awaited or set()) - {name}
        self._complete()
        return name

    def joined(self, name: str) -> tuple[int, frozenset[Partition]] | str:
        """Generation and assignment; or "wait" for the others, "again" when the next rebalance began, "unknown"."""
        if name not in self._members:
            return "unknown"
        if self._awaited is None:
            return self.generation, self._members[name].assignment
        return "again" if name in self._awaited else "wait"

    def heartbeat(self, name: str) -> str:
        if name not in self._members:
            return "unknown"
        self._members[name].expires_at = self._clock() + self._session_s
        return "stable" if self._awaited is None else "rebalancing"

    def leave(self, name: str) -> None:
        if self._members.pop(name, None) is None:
            return
        if self._awaited is not None:
            self._awaited.discard(name)
        self._rebalance()
        self._complete()

    def refusal(self, who: Metadata, in_transaction: bool) -> int | None:
        """Why this member may not commit, as an error code; whatever partitions it commits."""
        if who.generation < 0 and (not self._members or (in_transaction and not who.member)):
            return None
        if who.member not in self._members:
            return int(KafkaError.UNKNOWN_MEMBER_ID)
        return None if who.generation == self.generation else int(KafkaError.ILLEGAL_GENERATION)

    def _rebalance(self) -> None:
        if self._awaited is None:
            self._awaited = set(self._members)
            self._until = self._clock() + self._session_s

    def _complete(self) -> None:
        if self._awaited:
            return
        self._awaited = None
        self.generation += 1
        for member in self._members.values():
            member.assignment = frozenset()
            member.expires_at = self._clock() + self._session_s
        names = list(self._members)
        for partition in self._partitions if names else ():
            target = names[(partition.number + self.shift[partition]) % len(names)]
            if self._holder(partition) in (None, target):
                self._members[target].assignment |= {partition}

    def _holder(self, partition: Partition) -> str | None:
        """Who has it, by what the members say; who said so in an older generation has lost it since."""
        claims = [(m.claimed_in, name) for name, m in self._members.items() if partition in m.claims]
        return max(claims, default=(0, None))[1]


# ---- clients --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fault:
    """What strikes the next call of a name, before it takes effect or after; `strike` may raise."""

    call: str
    strike: Strike
    after: bool = False


class _Client:
    def __init__(self, kafka: MemoryKafka) -> None:
        self._kafka, self.clock = kafka, kafka.clock
        self.faults: list[Fault] = []
        self.cut_off_until = 0.0

    @property
    def cut_off(self) -> bool:
        """Is there no way to the broker now?"""
        return self.clock() < self.cut_off_until

    def _call(self, name: str, effect: Callable[[], T]) -> T:
        self.clock.advance(_CALL_S)
        fault = next((fault for fault in self.faults if fault.call == name), None)
        if fault is not None:
            self.faults.remove(fault)
            if not fault.after:
                fault.strike()
        self._kafka.tick()
        result = effect()
        if fault is not None and fault.after:
            fault.strike()
        return result


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
    position: int = -1001


class MemoryConsumer(_Client):
    """A member of the group. `heartbeat` is what the client's own thread does; `poll` does it too."""

    def __init__(self, kafka: MemoryKafka, on_commit: Callable[..., None]) -> None:
        super().__init__(kafka)
        self._on_commit = on_commit
        self._topic = ""
        self._callbacks: dict[str, Callable[..., None]] = {}
        self._member, self._generation = "", -1
        self._owned: dict[Partition, _Fetch] = {}
        self._paused: set[Partition] = set()
        self._events: deque[tuple[str, frozenset[Partition]]] = deque()  # callbacks for the next poll
        self._added: frozenset[Partition] = frozenset()  # come after the revoke that waits
        self._joining = self._rejoin = self._lost = False
        self._heard_at = self._polled_at = self.clock()
        self._commits: deque[tuple[Metadata, list[TopicPartition]]] = deque()
        self._errors: deque[KafkaError] = deque()
        self._reports: deque[tuple[KafkaError | None, list[TopicPartition]]] = deque()
        self._turns = 0

    # ---- the client's own thread ----------------------------------------------------------------------------------

    def heartbeat(self) -> None:
        """Tell the group that this member is alive, and hear what it decided."""
        self._kafka.tick()
        if not self._topic or self.cut_off:
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
            if fetch.next is None:
                fetch.next = self._kafka.committed_offset(partition)

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

    def meet(self, error: KafkaError) -> None:
        """Have an error in place of the next message."""
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

    def consume(self, limit: int, timeout: float) -> list[MemoryMessage]:
        """A callback may come in the middle: what was taken of a partition that it takes away is dropped."""
        fetches = dict(self._owned)
        taken = self._call("consume", lambda: self._take(limit))
        self._serve()
        return self._hand_over(
            [message for message in taken if self._owned.get(message.source) is fetches.get(message.source)]
        )

    def assignment(self) -> list[TopicPartition]:
        return [TopicPartition(*partition) for partition in self._owned]

    def position(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        fetches = [self._owned.get(Partition(tp.topic, tp.partition), _Fetch()) for tp in partitions]
        return [
            TopicPartition(tp.topic, tp.partition, fetch.position)
            for tp, fetch in zip(partitions, fetches, strict=True)
        ]

    def pause(self, partitions: list[TopicPartition]) -> None:
        self._paused |= {Partition(tp.topic, tp.partition) for tp in partitions}

    def resume(self, partitions: list[TopicPartition]) -> None:
        self._paused -= {Partition(tp.topic, tp.partition) for tp in partitions}

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
            if self.cut_off:
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
        while self._reports:
            self._on_commit(*self._reports.popleft())
        while self._events:
            self._serve_event()
            self._find_offsets()

    def _serve_event(self) -> None:
        event, partitions = self._events[0]  # waits until it has been served: no rebalance goes on meanwhile
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
        """At most so many messages off the partitions in turns, and the control records among them."""
        found: list[MemoryMessage] = []
        self._turns += 1
        owned = sorted(self._owned)
        first = self._turns % max(1, len(owned))
        for partition in owned[first:] + owned[:first]:
            fetch, log = self._owned[partition], self._kafka.logs[partition]
            end = 0 if self.cut_off or partition in self._paused else self._kafka.stable_end(partition)
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

    def __init__(self, kafka: MemoryKafka, transactional_id: str | None, room: int) -> None:
        super().__init__(kafka)
        self._id, self._room = transactional_id, room
        self._epoch = -1
        self._state = "ready"  # ready, open, committing, failed (to be aborted), aborting; or fatal
        self._error: KafkaError | None = None
        self._queue: deque[tuple[Partition, Record, Callable[..., None]]] = deque()
        self._reports: deque[Callable[[], None]] = deque()
        self.late_polls = 0  # so many polls bring no reports
        self.lost_batches: deque[bool] = (
            deque()
        )  # the next batches fail, though the broker has them (True) or not

    @property
    def is_fenced(self) -> bool:
        return self._state == "fatal"

    def produce(
        self,
        topic: str,
        value: bytes | None,
        on_delivery: Callable[..., None],
        partition: int,
        key: bytes | None = None,
        headers: Iterable[tuple[str, bytes | None]] = (),
        **_: Any,
    ) -> None:
        self._call("produce", lambda: None)
        if self._state == "fatal":
            raise KafkaException(KafkaError(KafkaError._FATAL, "fenced", True))
        if self._id is not None and self._state != "open":
            raise KafkaException(KafkaError(KafkaError._STATE, f"produced while {self._state}"))
        if len(self._queue) + len(self._reports) >= self._room:
            raise BufferError("queue full")
        self._queue.append((Partition(topic, partition), Record(key, value, tuple(headers)), on_delivery))

    def poll(self, timeout: float) -> int:
        self._call("producer_poll", self.send)
        served = self._report()
        if not served:
            self.clock.advance(timeout)
        return served

    def init_transactions(self, timeout: float) -> None:
        def effect() -> None:
            self._reach()
            self._epoch = self._kafka.new_epoch(self._name)
            self._state = "ready"

        self._call("init_transactions", effect)

    def begin_transaction(self) -> None:
        def effect() -> None:
            self._require("ready")
            self._state = "open"

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
            if self._state != "failed":
                self._require("open", "aborting")
            self._reach()
            self._state = "aborting"
            for _, _, on_delivery in self._queue:
                self._reports.append(lambda tell=on_delivery: tell(KafkaError(KafkaError._PURGE_QUEUE), None))
            self._queue.clear()
            self._end("aborted")

        self._call("abort_transaction", effect)
        self._state = "ready"

    def fail_transaction(self, code: int) -> None:
        """Leave the transaction nothing but to be aborted."""
        if self._state in ("open", "committing"):
            self._state, self._error = "failed", abortable(code)
            raise KafkaException(self._error)

    def send(self) -> None:
        """Hand the queue to the broker, a batch for each partition."""
        if self.cut_off:
            return
        batches: dict[Partition, list[tuple[Record, Callable[..., None]]]] = {}
        for partition, record, on_delivery in self._queue:
            batches.setdefault(partition, []).append((record, on_delivery))
        self._queue.clear()
        for partition, batch in batches.items():
            error = self._append(partition, [record for record, _ in batch])
            self._reports += [
                lambda tell=on_delivery, error=error: tell(error, None) for _, on_delivery in batch
            ]

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
        if self.late_polls:
            self.late_polls -= 1
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

    def _require(self, *states: str) -> None:
        if self._state == "fatal":
            raise KafkaException(fenced())
        if self._state == "failed" and self._error is not None:
            raise KafkaException(self._error)
        if self._state not in states:
            raise KafkaException(KafkaError(KafkaError._STATE, f"{self._state}, not {' or '.join(states)}"))

    def _reach(self) -> None:
        if self.cut_off:
            self._time_out()

    def _time_out(self) -> None:
        self.clock.advance(_TIMEOUT_S)
        raise KafkaException(retriable())
