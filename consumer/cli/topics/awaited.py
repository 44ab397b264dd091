"""The answers to the records of one `publish --wait`: a prediction or a dead letter for each.

An answer names its message (`vnp-source`), and the broker's confirmation says where each record went. So answers of
other publishers, and a second answer after a crash at least once, are told apart from those that are awaited. The
predictions of a record that was sent in parts are joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from confluent_kafka import Message

from consumer.cli.error_messages import UserError
from consumer.cli.topics.reading import Reader
from consumer.clock import Deadline
from consumer.delivery.answers import SOURCE_HEADER
from consumer.kafka.headers import headers_of
from schemas import DeadLetter, MalformedMessage, Prediction
from schemas.codecs import AnswerDecoder, DependencyUnavailable, Headers
from virnucpro_client.joining import Joiner
from virnucpro_client.parts import Part

_POLL_S = 0.2

Place = tuple[int, int]
"""Partition and offset in the input topic."""


def _of(part: Part | None) -> str:
    return "" if part is None else f"part {part.number} of {part.count}: "


@dataclass(frozen=True, slots=True)
class Missing:
    """A record without a prediction, and why.

    Attributes:
        kind: `dead_letter`, `no_answer`, or `not_delivered`.
    """

    number: int
    record_id: str
    kind: str
    why: str


class Awaited:
    """Numbers are those of the records in the order of the files.

    Args:
        reader: of the output and dead-letter topics, from where they ended before anything was sent.
        topic: the input topic.
        write: called with each prediction, in the order of the files.
        decoder: reads the answers.
    """

    def __init__(
        self,
        reader: Reader,
        topic: str,
        dlq_topic: str,
        write: Callable[[Prediction], None],
        decoder: AnswerDecoder,
    ) -> None:
        self._reader, self._topic, self._dlq_topic, self._write = reader, topic, dlq_topic, write
        self._decoder = decoder
        self._ids: dict[int, str] = {}  # of records that have no answer yet
        self._sent: dict[Place, tuple[int, Part | None]] = {}
        self._joiner, self._groups = Joiner(), dict[str, int]()  # of records in parts: the number of each
        # Of messages that the broker has not confirmed yet, or of other publishers.
        self._early: dict[Place, Prediction | DeadLetter] = {}
        self._ready: dict[int, Prediction | None] = {}
        self._next = self._unconfirmed = 0
        self.predicted = 0
        self._missing: list[Missing] = []

    def expect(self, number: int, record_id: str) -> None:
        """A record is about to be sent."""
        self._ids[number] = record_id
        self._unconfirmed += 1

    def confirmed(self, number: int, part: Part | None, message: Message) -> None:
        """The broker has the record, or a part of it."""
        if part is not None and number in self._ids:
            self._groups[part.group] = number
        place = int(message.partition() or 0), int(message.offset() or 0)
        early = self._early.pop(place, None)
        if early is None:
            self._sent[place] = number, part
        else:
            self._answered(number, part, early)

    def not_delivered(self, number: int, part: Part | None, why: str) -> None:
        """The broker refuses it, or a part of it."""
        self._close(number, None, "not_delivered", _of(part) + why)

    def settled(self) -> None:
        """The broker has answered for all messages of a record."""
        self._unconfirmed -= 1

    def take(self) -> None:
        """Take the answers that have come; does not wait.

        Raises:
            UserError: a topic cannot be read.
        """
        while (message := self._reader.read(0)) is not None:
            self._message(message)
        if not self._unconfirmed:
            self._early.clear()  # of other publishers

    def wait(self, deadline: Deadline) -> list[Missing]:
        """Take answers until every record has one, or the deadline; all records were sent and confirmed.

        Returns:
            The records without a prediction, in the order of the files.

        Raises:
            UserError: a topic cannot be read.
        """
        self._early.clear()
        while self._ids and not deadline.expired:
            message = self._reader.read(min(_POLL_S, deadline.remaining()))
            if message is not None:
                self._message(message)
        for (partition, offset), (number, part) in sorted(self._sent.items()):
            where = f"{_of(part)}{self._topic}/{partition}/{offset} has no answer yet"
            self._close(number, None, "no_answer", where)
        return sorted(self._missing, key=lambda each: each.number)

    def _message(self, message: Message) -> None:
        headers = headers_of(message) or ()
        place = self._place(headers)
        if place is None:
            return
        number, part = self._sent.pop(place, (None, None))
        if number is None and not self._unconfirmed:
            return  # of another publisher, or an answer that comes again
        answer: Prediction | DeadLetter
        try:
            if message.topic() == self._dlq_topic:
                answer = self._decoder.decode_dead_letter(message.value(), headers)
            else:
                answer = self._decoder.decode_prediction(message.value(), headers)
        except DependencyUnavailable as error:
            raise UserError(f"{error}: check VIRNUCPRO_SCHEMA_REGISTRY_URL, or unset it") from error
        except MalformedMessage as error:
            if number is not None:
                self._close(
                    number, None, "no_answer", f"{_of(part)}its answer cannot be read: {error.detail}"
                )
            return
        if number is None:
            self._early[place] = answer
        else:
            self._answered(number, part, answer)

    def _place(self, headers: Headers) -> Place | None:
        """The input message that a message with these headers answers, if it is of our topic."""
        for name, value in headers:
            if name == SOURCE_HEADER and value is not None:
                topic, _, place = value.decode(errors="replace").partition("/")
                partition, _, offset = place.partition("/")
                if topic == self._topic and partition.isdigit() and offset.isdigit():
                    return int(partition), int(offset)
        return None

    def _answered(self, number: int, part: Part | None, answer: Prediction | DeadLetter) -> None:
        if number not in self._ids:
            return  # another part of the record has none
        if isinstance(answer, DeadLetter):
            self._close(number, None, "dead_letter", f"{_of(part)}{answer.reason.value}: {answer.detail}")
            if part is not None:
                self._joiner.forget(part.group)
            return
        whole = answer if part is None else self._joiner.add(part, answer)
        if whole is not None:
            self.predicted += 1
            self._close(number, whole, "", "")
        for each in self._joiner.given_up():
            self._close(self._groups[each.group], None, "no_answer", each.why)

    def _close(self, number: int, prediction: Prediction | None, kind: str, why: str) -> None:
        """The fate of a record is known; of several parts without a prediction the first one counts."""
        record_id = self._ids.pop(number, None)
        if record_id is None:
            return
        if prediction is None:
            self._missing.append(Missing(number, record_id, kind, why))
        self._ready[number] = prediction
        for each in self._in_order():
            self._write(each)

    def _in_order(self) -> Iterator[Prediction]:
        while self._next in self._ready:
            prediction = self._ready.pop(self._next)
            self._next += 1
            if prediction is not None:
                yield prediction
