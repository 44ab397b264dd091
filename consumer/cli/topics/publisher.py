"""Sends sequence records to a topic and keeps account of what was delivered; `publish` and `demo` use it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from consumer.cli.error_messages import UserError, warn
from consumer.cli.topics.embedded_room import EmbeddedRoom
from consumer.clock import Deadline, monotonic
from consumer.kafka.error_table import Kind, classify, fatal_sentence
from schemas import SequenceRecord
from schemas.codecs import AvroCodec, RecordEncoder

_POLL_S = 0.1

Outcome = Callable[[Message | None, str], None]
"""Called once for a record: with the message that the broker has confirmed, or with None and why it has not."""


class Publisher:
    """One topic's publisher. A record that is not delivered is named on stderr, in a line with the reason.

    Args:
        producer: a client that is used by this object alone.
        stall_s: give up when records are waiting and none was delivered for so long, in seconds.
        rate: records a second, or None for as fast as it goes.
        why: what the client knows about a failed connection, as " (cause: cure)" or "".
        room: what an embedded broker has room for; None for a real one.
        codec: the wire format.
    """

    def __init__(
        self,
        producer: Producer,
        topic: str,
        stall_s: float,
        rate: float | None = None,
        why: Callable[[], str] = str,
        room: EmbeddedRoom | None = None,
        codec: RecordEncoder | None = None,
    ) -> None:
        self._producer, self._topic, self._codec = producer, topic, codec or AvroCodec()
        self._stall_s, self._rate, self._why = stall_s, rate, why
        self._room = room
        self._began_at = self._progress_at = monotonic()
        self.sent = self.delivered = self.failed = 0

    @property
    def waiting(self) -> int:
        """Records that were sent and that the broker has not answered for."""
        return self.sent - self.delivered - self.failed

    def publish(
        self,
        record: SequenceRecord,
        key: Callable[[SequenceRecord], bytes | None] = lambda record: record.id.encode(),
        outcome: Outcome = lambda _message, _why: None,
    ) -> None:
        """Send one record, at the rate, waiting while the client's queue is full.

        Args:
            key: gives the key of its message.
            outcome: hears what became of it, within a later call.

        Raises:
            UserError: the broker takes no records any more, or has no room for them.
        """
        if self._rate is not None:
            self._pace(Deadline(self._began_at + self.sent / self._rate))
        (value, headers), message_key = self._codec.encode_record(record), key(record)
        report = partial(self._on_delivery, record.id, outcome)
        while self._room is not None and not self._room.takes(len(value) + len(message_key or b"")):
            self._acknowledged()
            self._room.wait()
        if not self.waiting:
            self._progress_at = monotonic()
        while True:
            try:
                self._producer.produce(
                    self._topic, value=value, key=message_key, headers=list(headers), on_delivery=report
                )
                break
            except BufferError:
                self._wait(_POLL_S)
            except KafkaException as error:
                self._poll(0)
                self._refused(record.id, outcome, error.args[0])
                break
        self.sent += 1
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
        waiting = self.waiting
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
        self, record_id: str, outcome: Outcome, error: KafkaError | None, message: Message
    ) -> None:
        self._progress_at = monotonic()
        if error is None:
            self.delivered += 1
            outcome(message, "")
        else:
            self._refused(record_id, outcome, error)

    def _refused(self, record_id: str, outcome: Outcome, error: KafkaError) -> None:
        problem = classify(error)
        if problem.fatal:
            raise UserError(fatal_sentence("producer", problem, f"publish again from {record_id!r} on"))
        self.failed += 1
        too_large = f"is larger than the broker takes: {problem.cure}, or leave the record out"
        why = too_large if problem.kind is Kind.TOO_LARGE else f"({problem.text})"
        warn(f"record {record_id!r} was not delivered: {why}")
        outcome(None, why)
