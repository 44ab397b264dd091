"""Notices a topic that was deleted and made again under its name: the broker gives it another id.

The clients go by names. A consumer goes on in the new topic at the offset where it stood in the old one, and passes
over what lies before; no call fails, so only the id tells. What is read between two looks may be of either topic:
`confirmed_at` is the moment until which all that was read is of the known ones. Nothing read later is delivered and
committed yet (`Ledger.confirm`), so that the new topic can be read from its first message, and none of it is answered
twice.

Nothing is kept for a topic that is made again while the service is down: the broker deletes the group's offsets
together with the topic, so the group begins at the first message of the new one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection

from consumer.clock import Clock, monotonic

_IDLE_EVERY_S = 1.0
_BUSY_EVERY_S = 0.05
_URGENT_EVERY_S = 0.02
_REQUEST_S = 1.0
# The client sends this question to the controller. While that is away, and no other is known, its threads spin for as
# long as the question is open (librdkafka 2.16.0): so not all of the time.
_AFTER_FAILURE_S = 3.0
_NEVER = -math.inf


class TopicIds:
    """All methods run on one thread.

    Args:
        admin: a `confluent_kafka.admin.AdminClient`.
        read: the topic that is read, for which `confirmed_at` stands.
        written: the topics that are written to.
    """

    def __init__(self, admin: Any, read: str, written: Iterable[str], clock: Clock = monotonic) -> None:
        self._admin, self._read, self._clock = admin, read, clock
        self._topics = (read, *written)
        self._ids: dict[str, str] = {}
        self._answers: Mapping[str, Future[Any]] = {}
        self._asked_at = 0.0
        self._not_before = _NEVER
        self._confirmed_at = _NEVER

    @property
    def confirmed_at(self) -> float:
        """Until when the topic that is read was the known one, in the clock's seconds; -inf while it is missing."""
        return self._confirmed_at

    def turn(self, busy: bool, urgent: bool = False) -> list[str]:
        """Take an answer, ask again; never waits. Returns the topics that were made again.

        Args:
            busy: records are in flight; else it is enough to ask once a second.
            urgent: a result waits for `confirmed_at`, and for nothing else.
        """
        every = _URGENT_EVERY_S if urgent else _BUSY_EVERY_S if busy else _IDLE_EVERY_S
        again = self._take() if all(answer.done() for answer in self._answers.values()) else []
        if not self._answers and self._clock() >= max(self._asked_at + every, self._not_before):
            self._asked_at = self._clock()
            wanted = TopicCollection(list(self._topics))
            self._answers = self._admin.describe_topics(wanted, request_timeout=_REQUEST_S)
        return again

    def _take(self) -> list[str]:
        """What the broker does not tell stays as it was."""
        answers, self._answers = self._answers, {}
        again = []
        for topic, answer in answers.items():
            try:
                found = str(answer.result().topic_id)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    self._not_before = self._clock() + _AFTER_FAILURE_S
                elif topic == self._read:
                    # Offsets of the topic that is gone must not be committed for one that takes its name.
                    self._confirmed_at = _NEVER
                continue
            if self._ids.setdefault(topic, found) != found:
                again.append(topic)
                self._ids[topic] = found
            if topic == self._read:
                self._confirmed_at = self._asked_at
        return again


class NoTopicIds:
    """In place of `TopicIds` for a broker whose topics have no ids, and cannot be deleted: the embedded one."""

    confirmed_at = math.inf

    def turn(self, busy: bool, urgent: bool = False) -> list[str]:
        """Nothing is ever made again."""
        return []
