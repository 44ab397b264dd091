"""Sends records and keeps account of what the broker has acknowledged."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas import SequenceRecord
from virnucpro_client.connection import Connection
from virnucpro_client.errors import BrokerUnavailable, PublishFailed
from virnucpro_client.parts import Packer, Piece
from virnucpro_client.runs import RUN_HEADER, Run

_POLL_S = 0.1

Record = SequenceRecord | tuple[str, str]
"""What is published: a record, or its id and its sequence."""


@dataclass(slots=True)
class _Delivery:
    """The messages of one record: how many have no report yet, where the others are, and why one was refused."""

    number: int
    record_id: str
    waiting: int = 0
    complete: bool = False
    places: list[str] = field(default_factory=list)
    refused: str = ""


class RunPublisher:
    """Publishes the records of one run, each with its id as key.

    Args:
        producer: used by this object alone.
        packer: makes the messages of a record.
        stall_s: give up when records wait and the broker acknowledged none for so long, in seconds.
    """

    def __init__(
        self, producer: Producer, connection: Connection, topic: str, packer: Packer, stall_s: float
    ) -> None:
        self._producer, self._connection, self._topic = producer, connection, topic
        self._packer, self._stall_s = packer, stall_s
        self._waiting = 0
        self._progress_at = time.monotonic()
        self._refused: dict[int, tuple[str, str]] = {}

    def publish(self, records: Iterable[Record], run: Run) -> None:
        """Send all records and wait until the broker has answered for each; fills the run.

        Raises:
            PublishFailed: some were refused.
            BrokerUnavailable: the broker acknowledges nothing.
        """
        for number, item in enumerate(records):
            record = item if isinstance(item, SequenceRecord) else SequenceRecord(*item)
            self._send(number, record, run)
        while self._waiting:
            self._wait(_POLL_S)
        if self._refused:
            raise PublishFailed(run, self._refused)

    def _send(self, number: int, record: SequenceRecord, run: Run) -> None:
        delivery = _Delivery(number, str(record.id))
        try:
            key = record.id.encode()
            for piece in self._packer.pieces(record, key):
                self._produce(piece, key, delivery, run)
        except (TypeError, ValueError, AttributeError) as error:
            delivery.refused = f"the schema cannot carry it ({error})"
        delivery.complete = True
        self._settle(delivery, run)

    def _produce(self, piece: Piece, key: bytes, delivery: _Delivery, run: Run) -> None:
        if not self._waiting:
            self._progress_at = time.monotonic()
        headers: list[Any] = [*piece.headers, (RUN_HEADER, run.header(delivery.number))]
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    value=piece.value,
                    key=key,
                    headers=headers,
                    on_delivery=self._on_delivery(delivery, run),
                )
                break
            except BufferError:
                self._wait(_POLL_S)
            except KafkaException as error:
                delivery.refused = error.args[0].str()
                return
        self._waiting += 1
        delivery.waiting += 1
        self._producer.poll(0)

    def _wait(self, seconds: float) -> None:
        try:
            self._producer.poll(seconds)
        except KafkaException as error:
            raise self._connection.unavailable(error) from error
        if self._waiting and time.monotonic() - self._progress_at >= self._stall_s:
            self._producer.purge()
            raise BrokerUnavailable(
                f"the broker has acknowledged no record for {self._stall_s:g} s{self._connection.cause}, "
                f"{self._waiting} records wait: look at the broker, then publish them again"
            )

    def _on_delivery(self, delivery: _Delivery, run: Run) -> Callable[[KafkaError | None, Message], None]:
        def report(error: KafkaError | None, message: Message) -> None:
            self._waiting -= 1
            delivery.waiting -= 1
            self._progress_at = time.monotonic()
            offset = message.offset()
            if error is not None:
                delivery.refused = error.str()
            # A record that had been written already when it was sent again comes back without an offset.
            elif offset is not None and offset >= 0:
                delivery.places.append(f"{message.topic()}/{message.partition()}/{offset}")
            self._settle(delivery, run)

        return report

    def _settle(self, delivery: _Delivery, run: Run) -> None:
        """Enter a record when the broker has answered for all of its messages."""
        if delivery.waiting or not delivery.complete:
            return
        if delivery.refused:
            self._refused[delivery.number] = delivery.record_id, delivery.refused
            return
        run.ids[delivery.number] = delivery.record_id
        run.sources.update(dict.fromkeys(delivery.places, delivery.number))
