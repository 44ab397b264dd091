"""Replays dead letters: reads them behind the progress of a group, judges each, sends batches, keeps count.

A dead letter stays open until its record was sent: one that is skipped, exhausted or refused is looked at again by the
next replay, and filters leave the others open. So the progress is a map, not only an offset (kafka/offset_map.py).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from consumer.cli.dlq.letters import FoundLetter, LetterFilter, letter_in
from consumer.cli.dlq.outlet import Outlet
from consumer.cli.dlq.rule import ReplayRule
from consumer.cli.error_messages import UserError, warn
from consumer.cli.topics.reading import Reader
from consumer.clock import Clock, Deadline, monotonic
from consumer.delivery.answers import Outgoing
from consumer.kafka.error_table import Classified
from consumer.kafka.offset_map import OffsetMap, TooManyGaps
from schemas.codecs import AnswerDecoder

BATCH_RECORDS = 100
BATCH_BYTES = 8 << 20
BATCH_S = 1.0
_POLL_S = 0.2
_SILENCE_S = 60.0


@dataclass(slots=True)
class Counts:
    """What became of the dead letters that a replay has looked at."""

    replayed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    exhausted: int = 0
    failed: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "replayed": self.replayed,
            "skipped": dict(sorted(self.skipped.items())),
            "exhausted": self.exhausted,
            "failed": self.failed,
        }

    def __str__(self) -> str:
        causes = ", ".join(f"{cause} {count:,}" for cause, count in sorted(self.skipped.items()))
        return (
            f"{self.replayed:,} replayed, {self.skipped.total():,} skipped{causes and f' ({causes})'}, "
            f"{self.exhausted:,} exhausted, {self.failed:,} failed"
        )


class Backlog:
    """The open dead letters of a topic up to its end as it was at the start.

    What comes later is left to the next replay: a record that fails again would else go round in circles.

    Args:
        reader: of the topic; it is sent to where the progress is.
        ends: by partition, one past the last message.
    """

    def __init__(
        self,
        reader: Reader,
        decoder: AnswerDecoder,
        progress: Mapping[int, OffsetMap],
        ends: Mapping[int, int],
    ) -> None:
        self._reader, self._decoder, self._progress = reader, decoder, progress
        self._ends = dict(ends)

    def __iter__(self) -> Iterator[FoundLetter | None]:
        """Yields None while nothing comes, so that a batch is not kept waiting.

        Raises:
            UserError: the topic cannot be read, or the broker stops answering.
        """
        deadline = Deadline.after(_SILENCE_S)
        while not self._reader.caught_up:
            message = self._reader.read(_POLL_S)
            if message is None:
                if deadline.expired:
                    raise UserError(f"the broker has given nothing for {_SILENCE_S:.0f} s: is it up?")
                yield None
                continue
            number, offset = int(message.partition() or 0), int(message.offset() or 0)
            if offset >= self._ends[number]:
                self._reader.leave(str(message.topic()), number)
                continue
            done = self._progress[number].is_done(offset)
            found = None if done else letter_in(message, self._decoder)
            if found is None:
                # Replayed before, or not a dead letter at all.
                self._progress[number].passed(offset, done=True)
            else:
                yield found
            deadline = Deadline.after(_SILENCE_S)


@dataclass(slots=True)
class _Batch:
    letters: list[FoundLetter] = field(default_factory=list)
    messages: list[Outgoing] = field(default_factory=list)
    began_at: float = 0.0

    @property
    def size(self) -> int:
        return sum(message.size for message in self.messages)


class Replay:
    """One run.

    Args:
        topic: of the dead letters.
        rule: which are replayed.
        progress: by partition; changed as the replay goes on.
        outlet: None for a dry run.
        rate: records a second, None for as fast as it goes.
        close_skipped: those that are skipped or exhausted are not looked at again.
    """

    def __init__(
        self,
        topic: str,
        rule: ReplayRule,
        progress: Mapping[int, OffsetMap],
        outlet: Outlet | None,
        rate: float | None = None,
        close_skipped: bool = False,
        clock: Clock = monotonic,
    ) -> None:
        self._topic, self._rule, self._progress, self._outlet = topic, rule, progress, outlet
        self._rate, self._close_skipped, self._clock = rate, close_skipped, clock
        self._batch = _Batch()
        self._began_at = clock()
        self._taken = 0
        self._closed = False  # since the last commit, without being sent
        self.counts = Counts()

    def run(self, letters: Backlog, wanted: LetterFilter, most: int | None) -> Counts:
        """Replay the open dead letters that the filter takes, `most` of them; what was done is in `counts`, also after
        an error.

        Raises:
            UserError: the broker refuses or does not answer, or the progress does not fit into a commit.
        """
        for found in letters:
            if found is not None:
                self._take(found, wanted)
            batch = self._batch
            full = len(batch.letters) >= BATCH_RECORDS or batch.size >= BATCH_BYTES
            enough = most is not None and self._taken >= most
            if enough or full or (batch.letters and self._clock() - batch.began_at >= BATCH_S):
                self._send()
            if enough:
                break
        self._send()
        return self.counts

    def _take(self, found: FoundLetter, wanted: LetterFilter) -> None:
        passed = self._progress[found.partition].passed
        if not wanted.takes(found):
            passed(found.offset, done=False)
            return
        action, cause, _ = self._rule.judge(found)
        if action == "replay":
            self._pace()
            if not self._batch.letters:
                self._batch.began_at = self._clock()
            self._batch.letters.append(found)
            self._batch.messages.append(self._rule.outgoing(found))
            self._taken += 1
            # Counts as done from here on; only a commit makes it last.
            passed(found.offset, done=True)
            return
        if action == "skip":
            self.counts.skipped[cause] += 1
        else:
            self.counts.exhausted += 1
        passed(found.offset, done=self._close_skipped)
        self._closed = self._closed or self._close_skipped

    def _pace(self) -> None:
        if self._rate is None or self._outlet is None:
            return
        due = self._began_at + self._taken / self._rate
        while (left := due - self._clock()) > 0:
            if self._batch.letters and self._clock() - self._batch.began_at >= BATCH_S:
                self._send()
            time.sleep(min(left, _POLL_S))

    def _send(self) -> None:
        """Send the batch with the progress up to it."""
        batch, self._batch = self._batch, _Batch()
        if self._outlet is None:
            self.counts.replayed += len(batch.letters)
            return
        if not batch.letters and not self._closed:
            return
        refusals = self._outlet.send(batch.messages, self._offsets())
        if not refusals:
            self.counts.replayed += len(batch.letters)
            self._closed = False
            for progress in self._progress.values():
                progress.settled()
            return
        if len(batch.letters) == 1:
            self._refused(batch.letters[0], refusals[0])
            return
        # One message that is refused takes the batch with it: each alone.
        for found in batch.letters:
            self._progress[found.partition].reopen(found.offset)
        for found, message in zip(batch.letters, batch.messages, strict=True):
            self._progress[found.partition].done(found.offset)
            self._batch = _Batch([found], [message], self._clock())
            self._send()

    def _refused(self, found: FoundLetter, problem: Classified) -> None:
        self.counts.failed += 1
        self._progress[found.partition].reopen(found.offset)
        place = f"{self._topic}/{found.partition}/{found.offset}"
        warn(f"{place} is refused by the broker and stays open ({problem.text}): {problem.cure}")

    def _offsets(self) -> list[TopicPartition]:
        try:
            commits = {number: each.commit() for number, each in self._progress.items()}
        except TooManyGaps as error:
            raise UserError(
                f"too many dead letters stay open between those that are replayed ({error}): replay one --reason after "
                "the other, or export those that are skipped and set --close-skipped"
            ) from error
        return [
            TopicPartition(self._topic, number, offset, metadata)
            for number, (offset, metadata) in commits.items()
        ]


def ends_of(consumer: Consumer, topic: str, partitions: int) -> dict[int, int]:
    """One past the last message of each partition, now."""
    return {
        number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=_SILENCE_S)[1]
        for number in range(partitions)
    }
