"""Sends records and keeps account of what the broker has acknowledged."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas import SequenceRecord
from schemas.codecs import RecordEncoder
from virnucpro_client.connection import Connection
from virnucpro_client.errors import BrokerUnavailable, PublishFailed
from virnucpro_client.runs import RUN_HEADER, Run

_POLL_S = 0.1

Record = SequenceRecord | tuple[str, str]
"""What is published: a record, or its id and its sequence."""


class RunPublisher:
    """Publishes the records of one run, each with its id as key.

    Args:
        producer: used by this object alone.
        stall_s: give up when records wait and the broker acknowledged none for so long, in seconds.
    """

    def __init__(
        self, producer: Producer, connection: Connection, topic: str, encoder: RecordEncoder, stall_s: float
    ) -> None:
        self._producer, self._connection, self._topic = producer, connection, topic
        self._encoder, self._stall_s = encoder, stall_s
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
        try:
            value, headers = self._encoder.encode_record(record)
            key = record.id.encode()
        except (TypeError, ValueError, AttributeError) as error:
            self._refused[number] = (str(record.id), f"the schema cannot carry it ({error})")
            return
        if not self._waiting:
            self._progress_at = time.monotonic()
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    value=value,
                    key=key,
                    headers=[*headers, (RUN_HEADER, run.header(number))],
                    on_delivery=self._on_delivery(number, record.id, run),
                )
                break
            except BufferError:
                self._wait(_POLL_S)
            except KafkaException as error:
                self._refused[number] = (record.id, error.args[0].str())
                return
        self._waiting += 1
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

    def _on_delivery(
        self, number: int, record_id: str, run: Run
    ) -> Callable[[KafkaError | None, Message], None]:
        def report(error: KafkaError | None, message: Message) -> None:
            self._waiting -= 1
            self._progress_at = time.monotonic()
            if error is not None:
                self._refused[number] = (record_id, error.str())
                return
            run.ids[number] = record_id
            offset = message.offset()
            # A record that had been written already when it was sent again comes back without an offset.
            if offset is not None and offset >= 0:
                run.sources[f"{message.topic()}/{message.partition()}/{offset}"] = number

        return report
