"""Hands answers to the Kafka client, for either guarantee, and reports what became of them.

A rejection is classified (consumer/kafka/error_table.py); the guarantee decides whether to send again or to abort.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from consumer.delivery.answers import Answer, AnswerBuilder, Outgoing
from consumer.errors import ServiceError
from consumer.kafka.error_table import Classified, Kind, classify, rejected_message

log = structlog.get_logger(__name__)

_ASK_S = 0.5

Sent = Literal["sent", "full"]
"""The client has the message, or its queue is full."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an answer did not reach its topic.

    `alone` is True where the error is about this very message: it was sent by itself, or the client refused it
    before it was queued (`at_once`).
    """

    answer: Answer
    outgoing: Outgoing
    problem: Classified
    alone: bool
    at_once: bool = False

    @property
    def failure(self) -> ServiceError:
        """The end of the service, if this rejection is permanent."""
        return rejected_message(self.outgoing.topic, self.outgoing.size, self.problem)

    def log(self, event: str) -> None:
        """Write this rejection to the log as `event`."""
        log.warning(event, topic=self.outgoing.topic, error=self.problem.text, alone=self.alone)


Report = Callable[[Rejection | None], None]
"""Delivery report of one answer, None for success; called from C inside `poll`, so it must not raise."""


class Replaceable:
    """A producer in use, and another that takes its place.

    Args:
        make: gives a new producer.
    """

    def __init__(self, make: Callable[[], Producer]) -> None:
        self._make = make
        self._current = make()

    def __call__(self) -> Producer:
        """The one in use."""
        return self._current

    def replace(self) -> None:
        """Drop the one in use, with the messages that it has not delivered: their reports never come."""
        self._current = self._make()


class Sender:
    """Builds answers and produces them.

    Args:
        producer: gives the client in use; a transactional one may be replaced.
    """

    def __init__(self, producer: Callable[[], Producer], builder: AnswerBuilder) -> None:
        self._producer, self._builder = producer, builder

    def send(self, answer: Answer, alone: bool, report: Report) -> Sent:
        """Hand one answer to the client.

        Args:
            alone: no other message is in flight with it, so a rejection is about this very one.
            report: called once, later, unless the result is "full"; at once where the client refuses the message.
                With `delivery.report.only.error` not at all for a message that has arrived.
        """
        outgoing = self._builder.build(answer)

        def on_delivery(error: KafkaError | None, _message: Message | None) -> None:
            report(None if error is None else Rejection(answer, outgoing, classify(error), alone))

        try:
            produce(self._producer(), outgoing, on_delivery)
        except BufferError:
            return "full"
        except KafkaException as error:
            problem = classify(error.args[0])
            if problem.kind is Kind.UNKNOWN_PARTITION:
                self._ask_for_partitions()
            report(Rejection(answer, outgoing, problem, alone=True, at_once=True))
        return "sent"

    def poll(self, timeout: float) -> None:
        """Have the client call the reports that have come, waiting `timeout` seconds for the first."""
        self._producer().poll(timeout)

    def _ask_for_partitions(self) -> None:
        """Have the client hear of partitions that were added; by itself it asks every five minutes."""
        with suppress(KafkaException):  # the next one that is sent asks again
            self._producer().list_topics(timeout=_ASK_S)

    def amend(self, rejection: Rejection) -> bool:
        """Change a rejected answer so that the broker may accept it; False if nothing more can be done."""
        return self._builder.amend(rejection.answer, rejection.problem.kind)


def produce(
    producer: Producer, outgoing: Outgoing, on_delivery: Callable[[KafkaError | None, Message | None], None]
) -> None:
    """Hand a message to the client; raises what `Producer.produce` raises."""
    optional: dict[str, Any] = {}
    if outgoing.partition is not None:
        optional["partition"] = outgoing.partition
    if outgoing.timestamp_ms is not None:
        optional["timestamp"] = outgoing.timestamp_ms
    producer.produce(
        topic=outgoing.topic,
        key=outgoing.key,
        value=outgoing.value,
        headers=list(outgoing.headers),
        on_delivery=on_delivery,
        **optional,
    )
