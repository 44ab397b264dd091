"""Keeps a publisher from sending more than the embedded broker holds before the service has read it.

The embedded broker drops the oldest messages of a partition that is larger than 5 MiB (consumer/kafka/embedded.py),
whether they were read or not. So what is sent in a row stays below that, and the next part waits until the service's
group has committed everything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from consumer.cli.error_messages import UserError
from consumer.cli.invocation import typed
from consumer.clock import Clock, monotonic

_IN_A_ROW_BYTES = 2 << 20
_ANSWER_S = 5.0


class Backlog(NamedTuple):
    """Messages of a topic that its group has yet to commit, and those of them that are not there any more."""

    unread: int
    dropped: int


class GroupBacklog:
    """Asks the broker for the backlog of one group in one topic.

    Args:
        client: configured with the group's id; it neither subscribes nor joins the group.
        partitions: of the topic.
    """

    def __init__(self, client: Consumer, topic: str, partitions: int) -> None:
        self._client = client
        self._partitions = [TopicPartition(topic, number) for number in range(partitions)]

    def __call__(self) -> Backlog:
        """Raises UserError if the broker does not answer."""
        unread = dropped = 0
        try:
            for found in self._client.committed(self._partitions, timeout=_ANSWER_S):
                start, end = self._client.get_watermark_offsets(
                    TopicPartition(found.topic, found.partition), timeout=_ANSWER_S
                )
                committed = max(0, found.offset)
                unread += max(0, end - committed)
                dropped += max(0, start - committed)
        except KafkaException as error:
            raise UserError(
                f"the embedded broker does not say what was read ({error.args[0].str()}): is it up?"
            ) from error
        return Backlog(unread, dropped)


class EmbeddedRoom:
    """What may be sent to the embedded broker now.

    Args:
        backlog: asks for the group's backlog.
        group: named in errors.
        pause: waits, in seconds.
        stall_s: give up when the group has read nothing for so long.
    """

    def __init__(
        self,
        backlog: Callable[[], Backlog],
        group: str,
        pause: Callable[[float], object],
        stall_s: float,
        clock: Clock = monotonic,
    ) -> None:
        self._backlog, self._group, self._pause = backlog, group, pause
        self._stall_s, self._clock = stall_s, clock
        self._sent = 0

    def takes(self, size: int) -> bool:
        """Count a message of `size` bytes as sent; False if `wait` has to come first."""
        if self._sent and self._sent + size > _IN_A_ROW_BYTES:
            return False
        self._sent += size
        return True

    def wait(self) -> None:
        """Wait until the group has read all that was sent; the broker must have acknowledged it.

        Raises:
            UserError: it reads nothing, messages were dropped unread, or the broker does not answer.
        """
        left, progress_at = self._checked(), self._clock()
        while left:
            if self._clock() - progress_at >= self._stall_s:
                raise UserError(
                    f"the embedded broker holds about 5 MiB of each partition, and the group {self._group} has read "
                    f"nothing of it for {self._stall_s:.0f} s: {left} records wait; start `{typed('serve')}` with "
                    "that group, or use a real broker, and publish the rest"
                )
            self._pause(0.1)
            before, left = left, self._checked()
            progress_at = self._clock() if left < before else progress_at
        self._sent = 0

    def check(self) -> None:
        """Raises UserError if messages were dropped unread."""
        self._checked()

    def _checked(self) -> int:
        backlog = self._backlog()
        if backlog.dropped:
            raise UserError(
                f"the embedded broker has dropped {backlog.dropped} records that the group {self._group} had not read: "
                "it holds about 5 MiB of each partition; use a real broker, and publish again"
            )
        return backlog.unread
