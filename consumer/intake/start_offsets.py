"""Sees to it that a partition is read from where its group has committed, and nowhere else.

The client asks for the committed offset when a partition is assigned. While a transaction of the last owner is open
the broker does not say (KIP-447), and the client asks again. But when the assignment changes meanwhile it takes the
missing answer for "nothing was ever committed" and begins by auto.offset.reset, at the first message there is (seen
with librdkafka 2.16.0: `OffsetFetch` answers UNSTABLE_OFFSET_COMMIT, "back to pending list", "Starting ... at offset
INVALID"): a whole partition would be answered twice. So the service asks too, for each assignment, and until it knows
it enters no message: the first one has to be the one at the committed offset. If it is another the client is sent
there, once, since gaps in a log (compaction, transaction markers) make the first message come later.
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
from consumer.types import Partition

log = structlog.get_logger(__name__)

Answers = list[TopicPartition]
Ask = Callable[[list[TopicPartition], float], Answers]
"""The group's committed offsets, within so many seconds; as `Consumer.committed`, but not of the consumer that is
polled: calls on one client wait for each other, and this one takes all its time while a transaction is open."""
Submit = Callable[[Callable[[], Answers]], "Future[Answers]"]
"""Makes a call on another thread."""

_NOTHING = -1
_ANSWER_S, _ONE_ANSWER_S = 3.0, 1.0
_AGAIN_S = 1.0
_SAY_AGAIN_S = 30.0
_SEEKS = 3


@dataclass(slots=True, eq=False)
class _Check:
    """One assignment of one partition.

    committed: the group's offset, _NOTHING if it has none, None while that is not known; met: the offset of the first
    message that came; held: paused until the offset is known; late: the broker did not say at once, so the
    client may be anywhere; seeks: how often the client has been sent to the committed offset.
    """

    committed: int | None = None
    met: int | None = None
    held: bool = False
    late: bool = False
    seeks: int = 0


_Question = dict[Partition, _Check]


class Positions:
    """Where each partition's reading begins. All methods run on the thread that owns the consumer.

    Args:
        consumer: the one that reads.
        ask: for committed offsets.
        submit: makes a call of `ask` aside, one at a time.
    """

    def __init__(self, consumer: Consumer, ask: Ask, submit: Submit, clock: Clock = monotonic) -> None:
        self._consumer, self._ask, self._submit, self._clock = consumer, ask, submit, clock
        self._open: _Question = {}
        self._questions: deque[tuple[float, _Question]] = deque()  # by when they are due
        self._asked: _Question = {}
        self._answer: Future[Answers] | None = None
        self._say_at = clock()

    def assigned(self, partitions: Iterable[Partition]) -> None:
        """A new assignment begins. Its offset can't change any more, except by a transaction that is open now."""
        question = {partition: _Check() for partition in partitions}
        self._open |= question
        self._questions.appendleft((self._clock(), question))
        self._ask_next()

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
        check.met = offset if check.met is None else check.met
        if check.committed is None:
            self._hold(partition, check)
            return False
        if check.committed in (_NOTHING, offset) or (check.seeks and self._is_the_first(check, offset)):
            del self._open[partition]
            return True
        if not self._seek(partition, check, check.committed):
            self._hold(partition, check)
        return False

    def holds(self, partition: Partition) -> bool:
        """Must it stay paused?"""
        check = self._open.get(partition)
        return check is not None and check.held

    @property
    def held(self) -> int:
        """How many partitions wait for their offset, though there are messages."""
        return sum(check.held for check in self._open.values())

    def turn(self) -> list[Partition]:
        """Hear answers, ask again; the partitions that were paused and may be read now."""
        if not self._open:
            return []
        self._hear()
        self._ask_next()
        return [partition for partition, check in self._open.items() if self._let_go(partition, check)]

    def _is_the_first(self, check: _Check, offset: int) -> bool:
        """Is this the first message from the committed offset on, now that the client has been sent there?

        One before it is not, unless it comes again and again: then the log ends before the committed offset. One
        behind it is not if there was one between: the client was sent to an offset that is gone, and went to the end.
        """
        assert check.committed is not None
        if offset < check.committed:
            return check.seeks >= _SEEKS
        if check.met is not None and check.committed < check.met < offset:
            check.committed = check.met
            return False
        return True

    def _hold(self, partition: Partition, check: _Check) -> None:
        if not check.held:
            check.held = True
            self._consumer.pause([TopicPartition(*partition)])

    def _let_go(self, partition: Partition, check: _Check) -> bool:
        """Send the client to where it has to begin, if that is known now; True if the partition was paused for it."""
        if check.committed is None or not (check.held or check.late):
            return False
        target = check.met if check.committed == _NOTHING else check.committed
        if target is not None and not self._seek(partition, check, target):
            return False
        was_held, check.held, check.late = check.held, False, False
        return was_held

    def _seek(self, partition: Partition, check: _Check, target: int) -> bool:
        if check.met is not None and check.met < target:
            self._say(
                "read from the wrong place", partition=str(partition), began=check.met, committed=target
            )
        try:
            self._consumer.seek(TopicPartition(*partition, target))
        except KafkaException as error:
            # The client is just about to look for its offset: tried again in the next turn.
            self._say("cannot seek yet", partition=str(partition), error=error.args[0].str())
            return False
        check.seeks += 1
        return True

    # ---- questions ------------------------------------------------------------------------------------------------

    def _ask_next(self) -> None:
        while self._answer is None and self._questions and self._questions[0][0] <= self._clock():
            _, question = self._questions.popleft()
            self._asked = {p: check for p, check in question.items() if self._open.get(p) is check}
            if self._asked:
                wanted = [TopicPartition(*partition) for partition in self._asked]
                seconds = _ANSWER_S if len(wanted) > 1 else _ONE_ANSWER_S
                self._answer = self._submit(partial(self._ask, wanted, seconds))
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
        for check in question.values():
            check.late = True
        if waiting := [str(partition) for partition in question if self.holds(partition)]:
            event = "nobody says where to begin: is a transaction of the last owner still open?"
            self._say(event, partitions=waiting, error=why)

    def _say(self, event: str, **about: object) -> None:
        if self._clock() >= self._say_at:
            self._say_at = self._clock() + _SAY_AGAIN_S
            log.warning(event, **about)
