"""Sends sequence records to a topic and keeps account of what was delivered; `publish` and `demo` use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from consumer.cli.error_messages import UserError, warn
from consumer.cli.topics.embedded_room import EmbeddedRoom
from consumer.clock import Deadline, monotonic
from consumer.kafka.error_table import Kind, classify, fatal_sentence
from schemas import SequenceRecord
from schemas.codecs import AvroCodec
from virnucpro_client.parts import ANY_SIZE, Packer, Part, Piece

_POLL_S = 0.1
_ANY_PARTITION = -1


@dataclass(slots=True)
class Delivery:
    """What became of the messages of one record so far.

    Attributes:
        record_id: the record's.
        waiting: messages that the broker has not answered for; known when the first is sent.
        refused: whether the broker has refused one.
    """

    record_id: str
    waiting: int
    refused: bool = False


Outcome = Callable[[Part | None, Message | None, str, Delivery], None]
"""Hears what became of each message of a record: which part it is (None: the whole), the message that the broker has
confirmed, or None and why it has not, and the record's delivery, in which that is counted already."""


class Publisher:
    """One topic's publisher. A record that is not delivered is named on stderr, in a line with the reason.

    `sent`, `delivered` and `failed` count records; one in parts is delivered when all of them are.

    Args:
        producer: a client that is used by this object alone.
        stall_s: give up when records are waiting and none was delivered for so long, in seconds.
        rate: records a second, or None for as fast as it goes.
        why: what the client knows about a failed connection, as " (cause: cure)" or "".
        room: what an embedded broker has room for; None for a real one.
        packer: makes the messages of a record.
    """

    def __init__(
        self,
        producer: Producer,
        topic: str,
        stall_s: float,
        rate: float | None = None,
        why: Callable[[], str] = str,
        room: EmbeddedRoom | None = None,
        packer: Packer | None = None,
    ) -> None:
        self._producer, self._topic = producer, topic
        self._packer = packer or Packer(AvroCodec(), ANY_SIZE, ANY_SIZE)
        self._stall_s, self._rate, self._why = stall_s, rate, why
        self._room = room
        self._began_at = self._progress_at = monotonic()
        self.sent = self.delivered = self.failed = self.in_parts = 0
        self.waiting = 0  # messages that the broker has not answered for

    def publish(
        self,
        record: SequenceRecord,
        key: Callable[[SequenceRecord], bytes | None] = lambda record: record.id.encode(),
        outcome: Outcome = lambda *_: None,
        partitions: int = 1,
    ) -> None:
        """Send one record, at the rate, waiting while the client's queue is full.

        Args:
            key: gives the key of its message.
            outcome: hears what became of it, within a later call.
            partitions: of the topic: parts without a key go to one of these, as those with a key do.

        Raises:
            UserError: the broker takes no records any more, or has no room for them.
        """
        if self._rate is not None:
            self._pace(Deadline(self._began_at + self.sent / self._rate))
        message_key = key(record)
        self.sent += 1
        delivery: Delivery | None = None
        for piece in self._packer.pieces(record, message_key):
            if delivery is None:
                delivery = Delivery(record.id, 1 if piece.part is None else piece.part.count)
                self.in_parts += piece.part is not None
            partition = _ANY_PARTITION
            if piece.part is not None and message_key is None:
                partition = int(piece.part.group, 16) % partitions
            report = partial(self._on_delivery, delivery, piece.part, outcome)
            self._send(piece, message_key, partition, report)

    def _send(
        self,
        piece: Piece,
        key: bytes | None,
        partition: int,
        report: Callable[[KafkaError | None, Message | None], None],
    ) -> None:
        headers: list[Any] = list(piece.headers)
        while self._room is not None and not self._room.takes(len(piece.value) + len(key or b"")):
            self._acknowledged()
            self._room.wait()
        if not self.waiting:
            self._progress_at = monotonic()
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    value=piece.value,
                    key=key,
                    partition=partition,
                    headers=headers,
                    on_delivery=report,
                )
                break
            except BufferError:
                self._wait(_POLL_S)
            except KafkaException as error:
                self._poll(0)
                self.waiting += 1
                report(error.args[0], None)
                return
        self.waiting += 1
        self._poll(0)

    def finish(self) -> None:
        """Wait until the broker has answered for every record.

        Raises:
            UserError: the broker takes no records any more, or has dropped some.
        """
        self._acknowledged()
        if self._room is not None:
            self._room.check()

    def _acknowledged(self) -> None:
        while self.waiting:
            self._wait(_POLL_S)

    def _pace(self, due: Deadline) -> None:
        while not due.expired:
            self._wait(min(_POLL_S, due.remaining()))

    def _wait(self, seconds: float) -> None:
        self._poll(seconds)
        if not self.waiting or monotonic() - self._progress_at < self._stall_s:
            return
        waiting = self.sent - self.delivered - self.failed
        self._producer.purge()
        raise UserError(
            f"the broker took no record for {self._stall_s:.0f} s{self._why()}: {self.delivered} records "
            f"were delivered, {waiting} were not; look at the broker, then publish again"
        )

    def _poll(self, seconds: float) -> None:
        """Serve the reports. The client raises a fatal error here, with its cause, which `produce` does not name."""
        try:
            self._producer.poll(seconds)
        except KafkaException as error:
            raise UserError(fatal_sentence("producer", classify(error.args[0]), "publish again")) from error

    def _on_delivery(
        self,
        delivery: Delivery,
        part: Part | None,
        outcome: Outcome,
        error: KafkaError | None,
        message: Message | None,
    ) -> None:
        self._progress_at = monotonic()
        why = "" if error is None else self._reason(delivery.record_id, part, error)
        self.waiting -= 1
        delivery.waiting -= 1
        delivery.refused = delivery.refused or error is not None
        if not delivery.waiting:
            self.delivered += not delivery.refused
            self.failed += delivery.refused
        outcome(part, None if why else message, why, delivery)

    def _reason(self, record_id: str, part: Part | None, error: KafkaError) -> str:
        """Why a message was not delivered; said on stderr."""
        problem = classify(error)
        if problem.fatal:
            raise UserError(fatal_sentence("producer", problem, f"publish again from {record_id!r} on"))
        if problem.kind is Kind.UNAUTHORIZED:  # which concerns every record
            raise UserError(
                f"the broker refuses record {record_id!r} ({problem.text}): grant this client WRITE on {self._topic}, "
                "then publish again from that record on"
            )
        too_large = f"is larger than the broker takes: {problem.cure}, or leave the record out"
        why = too_large if problem.kind is Kind.TOO_LARGE else f"({problem.text})"
        which = "" if part is None else f", part {part.number} of {part.count},"
        warn(f"record {record_id!r}{which} was not delivered: {why}")
        return why
