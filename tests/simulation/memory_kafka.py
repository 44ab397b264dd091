"""Kafka in memory, on a clock that the test moves: logs, one consumer group, transactions.

What a real broker (Apache Kafka, classic groups) was seen to do is done here, where it matters for what may be lost or
repeated:

* Who commits offsets is checked by member and generation alone. Which partitions the member owns, and whether an
  offset goes back, is not; and in a transaction, a commit without member and generation is not checked at all.
* Offsets in a transaction count when it commits. Until then the committed offset of that partition is withheld.
* A transactional id has one live producer: a later one, or the transaction's timeout, fences the earlier one.
* The group is cooperative: a partition goes to another member after its owner has given it up, in the rebalance
  after. A member that is not heard of is put out.

Its clients are in tests/simulation/memory_clients.py.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException

from consumer.types import Partition
from tests.support.factories import FakeClock

OFFSET_INVALID = -1001
"""librdkafka's value for a missing offset."""


def fenced() -> KafkaError:
    return KafkaError(KafkaError._FENCED, "fenced", True, False, False)


@dataclass(eq=False, slots=True)
class Transaction:
    """Open, then committed or aborted; `offsets` are the group's, and count when it commits."""

    begun_at: float
    state: str = "open"
    partitions: set[Partition] = field(default_factory=set)
    offsets: dict[Partition, int] = field(default_factory=dict)


@dataclass(slots=True)
class Record:
    """One place in a log. A control record ends a transaction and is never delivered."""

    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    transaction: Transaction | None = None
    control: bool = False
    timestamp_ms: int | None = None

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
        # Another one for each topic, and for each time that it is made.
        self._ids_given = count(1)
        self.topic_ids = {topic: next(self._ids_given) for topic in topics}
        # A client that was made before its topic had this id reads nothing of it.
        self.first_readable_id: dict[str, int] = {}
        # The first offset that each log still has.
        self.starts: dict[Partition, int] = defaultdict(int)
        self.group = Group(clock, session_s)
        self.session_s, self.max_poll_s, self._transaction_s = session_s, max_poll_s, transaction_s
        self.max_message_bytes = max_message_bytes
        # The next batches for a topic are refused with these, one batch each.
        self.refusals: dict[str, deque[KafkaError]] = defaultdict(deque)
        self._ids: dict[str, _TransactionalId] = defaultdict(_TransactionalId)

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

    def delete_records(self, partition: Partition, before: int) -> None:
        """Delete what lies before an offset, as retention does."""
        self.starts[partition] = max(self.starts[partition], min(before, len(self.logs[partition])))

    def recreate(self, topic: str, lower_epochs: bool = False) -> None:
        """Delete a topic and make it again. The group's offsets of it go too, as a broker has it.

        lower_epochs: the leader epochs of its partitions are lower than before, as is common on several brokers:
        clients that knew the old topic never read the new one.
        """
        self.topic_ids[topic] = next(self._ids_given)
        if lower_epochs:
            self.first_readable_id[topic] = self.topic_ids[topic]
        for partition in self.partitions(topic):
            self.logs[partition] = []
            self.starts.pop(partition, None)
            self.group.committed.pop(partition, None)

    # ---- what clients ask -----------------------------------------------------------------------------------------

    def append(self, partition: Partition, records: list[Record]) -> KafkaError | None:
        """Take a batch whole, or refuse it whole."""
        if partition not in self.logs:
            return KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
        if refusals := self.refusals[partition.topic]:
            return refusals.popleft()
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

    def has_open_transaction(self, name: str, epoch: int) -> bool:
        return self._ids[name].epoch == epoch and self._ids[name].transaction is not None

    def committed_offset(self, partition: Partition) -> int | None:
        """What the group has committed, OFFSET_INVALID if nothing; None while a transaction is about to move it."""
        held = (owner.transaction for owner in self._ids.values() if owner.transaction is not None)
        if any(partition in transaction.offsets for transaction in held):
            return None
        return self.group.committed.get(partition, OFFSET_INVALID)

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
