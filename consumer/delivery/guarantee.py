"""The delivery guarantee: chosen in one place, which also says what it needs of the producer and of the cluster."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from confluent_kafka import Producer

from consumer.clock import Clock, Deadline, monotonic
from consumer.config.settings import ServiceSettings, unambiguous_id
from consumer.delivery.answers import AnswerBuilder
from consumer.delivery.at_least_once import AtLeastOnce, CommitReports
from consumer.delivery.contract import Delivery
from consumer.delivery.delivery_listener import DeliveryListener
from consumer.delivery.exactly_once import ExactlyOnce
from consumer.delivery.sender import Replaceable, Sender
from consumer.delivery.transactions import Transactions
from consumer.kafka.cluster import refuse_mock_transactions
from consumer.kafka.renewable_consumer import AnyConsumer
from consumer.ledger import Ledger

_CLOSE_S = 2.0
_TRANSACTION_MS = 10_000
"""The longest that readers wait for a process that died with an open transaction and does not come back."""


@dataclass(frozen=True, slots=True)
class DeliveryParts:
    """What a guarantee is built from.

    Attributes:
        consumer: made with `reports` as its `on_commit`.
        new_producer: makes a client with the guarantee's `producer_options`.
    """

    consumer: AnyConsumer
    reports: CommitReports
    new_producer: Callable[[], Producer]
    builder: AnswerBuilder
    ledger: Ledger
    listener: DeliveryListener
    clock: Clock = monotonic


class Guarantee(Protocol):
    """A delivery guarantee, before there are clients."""

    @property
    def producer_options(self) -> dict[str, Any]:
        """Options of librdkafka that the guarantee depends on, beside an idempotent producer's."""

    def check_cluster(self, client: Any, bootstrap: str) -> None:
        """Raise ServiceError if the cluster at `bootstrap` cannot give this guarantee; `client` is any Kafka client."""

    def open(self, parts: DeliveryParts, stack: ExitStack) -> Delivery:
        """Build the delivery and make it ready for its first turn.

        On its way out `stack` closes the consumer first, since at least once finished results are delivered while the
        partitions are given up, and then what the delivery holds at the broker.

        Raises:
            ServiceError: Kafka refuses, or does not answer in time.
        """


@dataclass(frozen=True, slots=True)
class ExactlyOnceGuarantee:
    """Answers and offsets in one transaction.

    Args:
        transactional_id: the same after a restart, so that a process ends at once what it left open.
        commit_interval_s: the shortest time between two transactions.
        open_timeout_s: how long the broker may take to register the transactional id.
    """

    transactional_id: str
    commit_interval_s: float
    open_timeout_s: float

    @property
    def producer_options(self) -> dict[str, Any]:
        return {
            "transactional.id": self.transactional_id,
            "transaction.timeout.ms": _TRANSACTION_MS,
            # The commit says that all have arrived; a report of each would be a call into Python for each.
            "delivery.report.only.error": True,
        }

    def check_cluster(self, client: Any, bootstrap: str) -> None:
        refuse_mock_transactions(client, bootstrap)

    def open(self, parts: DeliveryParts, stack: ExitStack) -> Delivery:
        clock = parts.clock
        transactions = Transactions(parts.new_producer, parts.listener, clock)
        delivery = ExactlyOnce(
            parts.consumer,
            transactions,
            Sender(lambda: transactions.producer, parts.builder),
            parts.ledger,
            parts.listener,
            self.commit_interval_s,
            clock,
        )
        stack.callback(lambda: delivery.close(Deadline.after(_CLOSE_S, clock)))
        stack.callback(parts.consumer.close)
        delivery.open(Deadline.after(self.open_timeout_s, clock))
        return delivery


@dataclass(frozen=True, slots=True)
class AtLeastOnceGuarantee:
    """Offsets after the delivery reports.

    Args:
        commit_interval_s: the shortest time between two commits.
    """

    commit_interval_s: float

    @property
    def producer_options(self) -> dict[str, Any]:
        return {}

    def check_cluster(self, client: Any, bootstrap: str) -> None:
        """Every cluster will do."""

    def open(self, parts: DeliveryParts, stack: ExitStack) -> Delivery:
        producer = Replaceable(parts.new_producer)
        stack.callback(parts.consumer.close)
        return AtLeastOnce(
            parts.consumer,
            parts.reports,
            producer,
            Sender(producer, parts.builder),
            parts.ledger,
            parts.listener,
            self.commit_interval_s,
            parts.clock,
        )


def guarantee_for(settings: ServiceSettings) -> Guarantee:
    """The guarantee that VIRNUCPRO_DELIVERY names."""
    interval = settings.commit_interval_ms / 1000
    match settings.delivery:
        case "exactly_once":
            name = unambiguous_id(settings.group_id, settings.instance_id)
            return ExactlyOnceGuarantee(name, interval, settings.startup_timeout_s)
        case "at_least_once":
            return AtLeastOnceGuarantee(interval)
