"""Sees to it that a partition is read from where its group has committed, and nowhere else.

The client asks for the committed offset when a partition is assigned. While a transaction of the last owner is open
the broker does not say (KIP-447), and the client asks again. But when the assignment changes meanwhile it takes the
missing answer for "nothing was ever committed" and begins at the first message there is (seen with librdkafka 2.16.0:
`OffsetFetch` answers UNSTABLE_OFFSET_COMMIT, "back to pending list", "Starting ... at offset INVALID"): a whole
partition would be answered twice. So the service asks too, for each assignment, and until it knows it enters no
message: the first message has to be the one at the committed offset; if it is another the client is sent there, once,
since gaps in a log (compaction, transaction markers) make the first message come later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition

from consumer.clock import Clock, monotonic
from consumer.work import Partition

log = structlog.get_logger(__name__)

Answers = list[TopicPartition]
Submit = Callable[[Callable[[], Answers]], "Future[Answers]"]
"""Makes a call on another thread: while a transaction is open `committed` takes all the time it is given."""

_NOTHING = -1
_ANSWER_S = 3.0
_AGAIN_S = 1.0
_SAY_AGAIN_S = 30.0


@dataclass(slots=True, eq=False)
class _Check:
    """One assignment of one partition.

    committed: the group's offset, _NOTHING if it has none, None while that is not known; refused: the offset of a
    message that came before; sought: the client has been sent to the committed offset.
    """

    committed: int | None = None
    refused: int | None = None
    sought: bool = False


_Question = dict[Partition, _Check]


class Positions:
    """Where each partition's reading begins. All methods run on the thread that owns the consumer.

    Args:
        submit: makes a call aside; one at a time is asked for.
    """

    def __init__(self, consumer: Consumer, submit: Submit, clock: Clock = monotonic) -> None:
        self._consumer, self._submit, self._clock = consumer, submit, clock
        self._open: _Question = {}
        self._questions: deque[tuple[float, _Question]] = deque()  # by when they are due
        self._asked: _Question = {}
        self._answer: Future[Answers] | None = None
        self._say_at = clock()

    def assigned(self, partitions: Iterable[Partition]) -> None:
        """A new assignment begins. Its offset can't change any more, except by a transaction that is open now."""
        question = {partition: _Check() for partition in partitions}
        self._open |= question
        self._questions.append((self._clock(), question))
        self._ask()

    def forget(self, partitions: Iterable[Partition]) -> None:
        """The assignment is over."""
        for partition in partitions:
            self._open.pop(partition, None)

    def admits(self, partition: Partition, offset: int) -> bool:
        """May this message be entered? If not it comes again, or one before it does; the partition may be paused."""
        check = self._open.get(partition)
        if check is None:
            return True
        self._hear()
        if check.committed is None:
            if check.refused is None:
                check.refused = offset
                self._consumer.pause([_topic_partition(partition)])
            return False
        if check.sought or check.committed in (_NOTHING, offset):
            del self._open[partition]
            return True
        self._seek(partition, check, offset)
        return False

    def holds(self, partition: Partition) -> bool:
        """Must it stay paused?"""
        check = self._open.get(partition)
        return check is not None and check.refused is not None

    @property
    def held(self) -> int:
        """How many partitions wait for their offset, though there are messages."""
        return sum(check.refused is not None for check in self._open.values())

    def turn(self) -> list[Partition]:
        """Hear answers, ask again; the partitions that were paused and may be read now."""
        if not self._open:
            return []
        self._hear()
        self._ask()
        known = [(p, c) for p, c in self._open.items() if c.refused is not None and c.committed is not None]
        return [partition for partition, check in known if self._seek(partition, check, check.refused or 0)]

    def _seek(self, partition: Partition, check: _Check, met: int) -> bool:
        target = met if check.committed == _NOTHING else check.committed
        if met != target:
            log.warning("read from the wrong place", partition=str(partition), began=met, committed=target)
        try:
            self._consumer.seek(TopicPartition(partition.topic, partition.number, target or 0))
        except (
            KafkaException
        ) as error:  # it is about to look for its offset again; asked again in the next turn
            log.warning("cannot seek yet", partition=str(partition), error=error.args[0].str())
            return False
        check.sought, check.refused = True, None
        return True

    def _ask(self) -> None:
        while self._answer is None and self._questions and self._questions[0][0] <= self._clock():
            _, question = self._questions.popleft()
            self._asked = {p: check for p, check in question.items() if self._open.get(p) is check}
            if self._asked:
                wanted = [_topic_partition(partition) for partition in self._asked]
                self._answer = self._submit(partial(self._consumer.committed, wanted, timeout=_ANSWER_S))
                self._hear()

    def _hear(self) -> None:
        if self._answer is None or not self._answer.done():
            return
        answer, self._answer = self._answer, None
        try:
            answers = answer.result()
        except KafkaException as error:
            self._ask_later(self._asked, error.args[0].str())
            return
        for found in answers:
            partition = Partition(found.topic, found.partition)
            if found.error is not None:
                self._ask_later({partition: self._asked[partition]}, found.error.str())
            else:
                self._asked[partition].committed = max(found.offset, _NOTHING)

    def _ask_later(self, question: _Question, why: str) -> None:
        """One by one: an answer for several comes when it is there for all."""
        due = self._clock() + _AGAIN_S
        self._questions += [(due, {partition: check}) for partition, check in question.items()]
        waiting = [str(partition) for partition in question if self.holds(partition)]
        if waiting and self._clock() >= self._say_at:
            self._say_at = self._clock() + _SAY_AGAIN_S
            log.warning(
                "nobody says where to begin: is a transaction of the last owner still open?",
                partitions=waiting,
                error=why,
            )


def _topic_partition(partition: Partition) -> TopicPartition:
    return TopicPartition(partition.topic, partition.number)
