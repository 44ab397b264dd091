"""Makes sure that a partition is read from the offset that its group has committed, and from no other.

The client fetches the committed offset when a partition is assigned. While a transaction of the previous owner is open
the broker withholds it (KIP-447), and the client asks again. But when the assignment changes meanwhile, the client
takes the missing answer for "nothing was ever committed" and begins by auto.offset.reset, at the first message there
is (seen with librdkafka 2.16.0: `OffsetFetch` answers UNSTABLE_OFFSET_COMMIT, "back to pending list", "Starting ... at
offset INVALID"): a whole partition would be answered twice. So the service asks too, for each assignment, and accepts
no message before it knows: the first one has to be the one at the committed offset. If it is another, the client is
sent there, once, since gaps in a log (compaction, transaction markers) make the first message come later.

An assignment waits for the answer for a moment, so that no partition is paused for it as a rule: librdkafka's thread
that fetches may sleep for a second when a partition is resumed and none was fetched meanwhile.

Remove when librdkafka keeps asking across a change of the assignment: then `tests/kafka/test_positions.py` passes
without `StartOffsets.accepts`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial

import structlog
from confluent_kafka import KafkaException, TopicPartition

from consumer.clock import Clock, monotonic
from consumer.intake.gaps import Gaps
from consumer.kafka.renewable_consumer import AnyConsumer
from consumer.throttle import Throttle
from consumer.types import Partition

log = structlog.get_logger(__name__)

Answers = list[TopicPartition]
Ask = Callable[[list[TopicPartition], float], Answers]
"""The group's committed offsets, within so many seconds; as `Consumer.committed`, but not of the consumer that is
polled: calls on one client wait for each other, and this one takes all its time while a transaction is open."""
Submit = Callable[[Callable[[], Answers]], "Future[Answers]"]
"""Makes a call on another thread."""

_NO_OFFSET = -1
_ANSWER_S, _ONE_ANSWER_S = 3.0, 1.0
_AGAIN_S = 1.0
_AT_ONCE_S = 0.3  # what a broker takes to answer, and more
_SEEKS = 3


@dataclass(slots=True, eq=False)
class _Check:
    """One assignment of one partition.

    Attributes:
        start: the group's offset, _NO_OFFSET if it has none, or while it is not known.
        committed: where to begin: `start`, or the first message behind it that was seen; None while it is not known.
        first_seen: offset of the first message that came.
        waiting: paused until the committed offset is known.
        late: the broker did not answer at once, so the client may stand anywhere.
        seeks: how often the client has been sent to the committed offset.
    """

    start: int = _NO_OFFSET
    committed: int | None = None
    first_seen: int | None = None
    waiting: bool = False
    late: bool = False
    seeks: int = 0


_Question = dict[Partition, _Check]


class StartOffsets:
    """Checks the first message of each assigned partition. All methods but `waiting` run on the consumer's thread.

    Args:
        consumer: the one that reads.
        ask: for committed offsets.
        submit: runs a call of `ask` on another thread, one at a time.
        gaps: is told where each partition begins, and what is read of it.
    """

    def __init__(
        self, consumer: AnyConsumer, ask: Ask, submit: Submit, gaps: Gaps, clock: Clock = monotonic
    ) -> None:
        self._consumer, self._ask, self._submit, self._clock = consumer, ask, submit, clock
        self._gaps = gaps
        self._open: _Question = {}
        self._questions: deque[tuple[float, _Question]] = deque()  # by when they are due
        self._asked: _Question = {}
        self._answer: Future[Answers] | None = None
        self._throttle = Throttle(clock=clock)

    def assign(self, partitions: Iterable[Partition]) -> None:
        """A new assignment begins. Its offset cannot change any more, except by a transaction that is open now.

        Waits at most 0.3 seconds for the broker's answer.
        """
        question = {partition: _Check() for partition in partitions}
        self._open |= question
        self._questions.appendleft((self._clock(), question))
        self._ask_next()
        if self._answer is not None:
            wait([self._answer], _AT_ONCE_S)
            self._take_answer()

    def forget(self, partitions: Iterable[Partition]) -> None:
        """The assignment is over."""
        for partition in partitions:
            self._open.pop(partition, None)
            self._gaps.forget([partition])

    def begin_again(self, partitions: Iterable[Partition]) -> None:
        """The topic was made again: read it from its first message, whatever was committed of the old one."""
        for partition in partitions:
            self._gaps.forget([partition])
            self._gaps.begin_at_log_start(partition)
            check = self._open[partition] = _Check(committed=0)
            if not self._seek(partition, check, 0):
                self._wait(partition, check)

    def settle(self) -> bool:
        """False while it is not known whether input was skipped; see `Gaps.settle`."""
        return self._gaps.settle()

    def accepts(self, partition: Partition, offset: int) -> bool:
        """True if this message may be taken; if not, it or an earlier one comes again. May pause the partition."""
        accepted = self._is_due(partition, offset)
        if accepted:
            self._gaps.read(partition, offset)
        return accepted

    def _is_due(self, partition: Partition, offset: int) -> bool:
        check = self._open.get(partition)
        if check is None:
            return True
        self._take_answer()
        check.first_seen = offset if check.first_seen is None else check.first_seen
        if check.committed is None:
            self._wait(partition, check)
            return False
        if check.committed in (_NO_OFFSET, offset) or (check.seeks and self._is_the_first(check, offset)):
            del self._open[partition]
            if check.start != _NO_OFFSET:
                self._gaps.begin(partition, check.start)
            return True
        if not self._seek(partition, check, check.committed):
            self._wait(partition, check)
        return False

    def is_waiting(self, partition: Partition) -> bool:
        """True if the partition must stay paused."""
        check = self._open.get(partition)
        return check is not None and check.waiting

    def begins_at(self, partition: Partition) -> int | None:
        """The group's offset of a partition of which no message was accepted yet; None if it has none or it is not
        known."""
        check = self._open.get(partition)
        return None if check is None or check.committed in (None, _NO_OFFSET) else check.committed

    @property
    def waiting(self) -> int:
        """Partitions that wait for their offset although they have messages. Safe from any thread."""
        return sum(check.waiting for check in list(self._open.values()))

    def turn(self) -> list[Partition]:
        """Take answers, ask again; returns the partitions that were paused and may be read now."""
        if not self._open:
            return []
        self._take_answer()
        self._ask_next()
        return [partition for partition, check in self._open.items() if self._release(partition, check)]

    def _is_the_first(self, check: _Check, offset: int) -> bool:
        """True if this is the first message from the committed offset on, now that the client has been sent there.

        One before it is not, unless it comes again and again: then the log ends before the committed offset. One
        behind it is not if there was one between: the client was sent to an offset that is gone, and went to the end.
        """
        assert check.committed is not None
        if offset < check.committed:
            return check.seeks >= _SEEKS
        if check.first_seen is not None and check.committed < check.first_seen < offset:
            check.committed = check.first_seen
            return False
        return True

    def _wait(self, partition: Partition, check: _Check) -> None:
        if not check.waiting:
            check.waiting = True
            self._consumer.pause([TopicPartition(*partition)])

    def _release(self, partition: Partition, check: _Check) -> bool:
        """Send the client to its start offset, if that is known now; True if the partition was paused for it."""
        if check.committed is None or not (check.waiting or check.late):
            return False
        target = check.first_seen if check.committed == _NO_OFFSET else check.committed
        if target is not None and not self._seek(partition, check, target):
            return False
        was_waiting, check.waiting, check.late = check.waiting, False, False
        return was_waiting

    def _seek(self, partition: Partition, check: _Check, target: int) -> bool:
        if check.first_seen is not None and check.first_seen < target:
            self._warn(
                "start_offset_corrected",
                partition=str(partition),
                first_seen=check.first_seen,
                committed=target,
            )
        try:
            self._consumer.seek(TopicPartition(*partition, target))
        except KafkaException as error:
            # The client is fetching its offset at this moment: retried in the next turn.
            self._warn("seek_refused", partition=str(partition), error=error.args[0].str())
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
                self._take_answer()

    def _take_answer(self) -> None:
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
                check = self._asked[partition]
                check.start = check.committed = max(found.offset, _NO_OFFSET)
                if check.start == _NO_OFFSET and self._open.get(partition) is check:
                    self._gaps.begin_at_log_start(partition)

    def _ask_later(self, question: _Question, why: str) -> None:
        """Ask for each partition alone: a combined request completes only when all offsets are known."""
        due = self._clock() + _AGAIN_S
        self._questions += [(due, {partition: check}) for partition, check in question.items()]
        for check in question.values():
            check.late = True
        if waiting := [str(partition) for partition in question if self.is_waiting(partition)]:
            # Most likely a transaction of the previous owner is still open.
            self._warn("committed_offset_unknown", partitions=waiting, error=why)

    def _warn(self, event: str, **fields: object) -> None:
        if self._throttle.allows(event):
            log.warning(event, **fields)
