"""The client: one object that publishes runs and reads answers."""

from __future__ import annotations

import time
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType, TracebackType
from typing import Any, Literal

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer

from schemas import DeadLetter
from schemas.codecs import AnswerDecoder, AvroCodec, EitherDecoder, JsonCodec, RecordEncoder
from virnucpro_client.answers import Answer, source_of
from virnucpro_client.connection import Connection
from virnucpro_client.errors import ClientError, Unanswered
from virnucpro_client.joining import Joiner
from virnucpro_client.parts import CHUNK_SIZES, Packer, part_of
from virnucpro_client.publishing import Record, RunPublisher
from virnucpro_client.reading import AnswerReader, ends
from virnucpro_client.runs import RUN_HEADER, Run

_CLOSE_S = 10.0
_BATCH_BYTES = 1_000_000  # librdkafka's own


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of a service: its VIRNUCPRO_INPUT_TOPIC, VIRNUCPRO_OUTPUT_TOPIC and VIRNUCPRO_DLQ_TOPIC."""

    input: str = "sequences"
    predictions: str = "predictions"
    dead_letters: str = "sequences.dlq"

    @property
    def answers(self) -> tuple[str, str]:
        """The topics in which answers are."""
        return self.predictions, self.dead_letters


@dataclass(frozen=True, slots=True)
class Limits:
    """What the service takes. A larger record is published in parts, and `answers` joins their predictions.

    The topic's own limit on messages is asked of the broker, and counts too.

    Attributes:
        message_bytes: its VIRNUCPRO_MAX_MESSAGE_BYTES.
        sequence_bases: its VIRNUCPRO_MAX_SEQUENCE_BASES.
        chunk_size: of its model, in bases: 500 or 300. Records are cut between chunks.
    """

    message_bytes: int = 5_000_000
    sequence_bases: int = 1_000_000
    chunk_size: int = CHUNK_SIZES[0]


class Client:
    """Publishes records and reads their answers; used as a context manager, which closes every Kafka client.

    Records are read back as the service writes them by default: Avro in any framing, or JSON. A framing that names a
    schema of a registry is read with the schema of this package's version, unless `decoder` is
    `AvroCodec(writer_schema)` with a function that looks the id up.

    Args:
        bootstrap_servers: host:port, several with commas.
        topics: of the service.
        options: of librdkafka, for example {"security.protocol": "SSL", "ssl.ca.location": "ca.pem"}.
        encoder: the format of published records; Avro single-object encoding by default.
        decoder: reads answers.
        limits: of the service.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topics: Topics | None = None,
        options: Mapping[str, Any] = MappingProxyType({}),
        encoder: RecordEncoder | None = None,
        decoder: AnswerDecoder | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.topics = topics or Topics()
        self._connection = Connection(bootstrap_servers, options)
        self._encoder = encoder or AvroCodec()
        self._decoder = decoder or EitherDecoder(AvroCodec(), JsonCodec())
        self._limits = limits or Limits()
        self._open: set[Consumer] = set()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the readers that are open, also under an iterator of answers that was left before its end."""
        with ExitStack() as stack:
            while self._open:
                stack.callback(self._open.pop().close)

    def publish(self, records: Iterable[Record], stall_s: float = 60.0) -> Run:
        """Publish every record and wait until the broker has acknowledged all of them.

        Args:
            records: (id, sequence), or SequenceRecord for a description and metadata too. It is read once, as it is
                sent.
            stall_s: give up when the broker acknowledged nothing for so long, in seconds.

        Returns:
            What `answers` needs to find the answers.

        Raises:
            PublishFailed: some records were refused; the error has the run of the others.
            BrokerUnavailable: no broker answers, or a topic does not exist.
        """
        with self._consumer() as consumer:
            self._connection.partitions(consumer, self.topics.input)
            starts = ends(consumer, self._connection, self.topics.answers)
            told = self._connection.largest_message(consumer, self.topics.input)
        run = Run(uuid.uuid4().hex, starts=starts)
        limits = self._limits
        most = limits.message_bytes if told is None else min(told, limits.message_bytes)
        packer = Packer(self._encoder, most, limits.sequence_bases, limits.chunk_size)
        with self._producer(most) as producer:
            RunPublisher(producer, self._connection, self.topics.input, packer, stall_s).publish(records, run)
        return run

    def answers(self, run: Run, timeout_s: float) -> Generator[Answer, None, None]:
        """The answer of each record of a run, once, as they come; ends after the last.

        Of a record that was replayed meanwhile, or answered again under at-least-once delivery, the answer that is read
        first counts. A record that was published in parts has the prediction of the whole, or the dead letter of one.

        Raises:
            Unanswered: `timeout_s` seconds have passed, and records are without an answer; it names them.
            BrokerUnavailable: a topic cannot be read.
        """
        for _, answer in self._numbered(run, timeout_s):
            yield answer

    def wait(self, run: Run, timeout_s: float) -> list[Answer]:
        """All answers of a run, in the order of its records; errors as those of `answers`."""
        return [answer for _, answer in sorted(self._numbered(run, timeout_s), key=lambda pair: pair[0])]

    def predictions(
        self, idle_s: float, start: Literal["beginning", "now"] = "beginning"
    ) -> Generator[Answer, None, None]:
        """The messages of the output topic, until none has come for `idle_s` seconds."""
        return self._messages(self.topics.predictions, idle_s, start)

    def dead_letters(
        self, idle_s: float, start: Literal["beginning", "now"] = "beginning"
    ) -> Generator[Answer, None, None]:
        """The messages of the dead-letter topic, until none has come for `idle_s` seconds."""
        return self._messages(self.topics.dead_letters, idle_s, start)

    def _numbered(self, run: Run, timeout_s: float) -> Iterator[tuple[int, Answer]]:
        missing, deadline = dict(run.ids), time.monotonic() + timeout_s
        joiner, groups = Joiner(), dict[int, str]()  # of the records in parts: the group of each
        given_up = list[str]()
        with self._reader(run.starts) as reader:
            for answer in reader.until(deadline) if missing else ():
                header = next((value for name, value in answer.headers if name == RUN_HEADER), None)
                number = run.number_of(header, answer.source)
                if number is None or number not in missing:
                    continue  # another run's, or one that at-least-once delivery repeats
                part = part_of(answer.headers)
                if part is not None and not isinstance(answer.content, DeadLetter):
                    groups[number] = part.group
                    whole = joiner.add(part, answer.content)
                    given_up += [f"{each.record_id!r}: {each.why}" for each in joiner.given_up()]
                    if whole is None:
                        continue
                    answer = replace(answer, content=whole, source=source_of(whole))
                yield number, replace(answer, id=missing.pop(number))
                if not missing:
                    return
            if missing:
                parts = [
                    (missing[number], joiner.why(groups[number])) for number in missing if number in groups
                ]
                given_up += [f"{record_id!r}: {why}" for record_id, why in parts if why is not None]
                hint = f"; {reader.skipped} messages could not be read" if reader.skipped else ""
                raise Unanswered(
                    [missing[number] for number in sorted(missing)],
                    len(run) - len(missing),
                    timeout_s,
                    "".join(f"; {each}" for each in given_up) + hint + self._connection.cause,
                )

    def _messages(
        self, topic: str, idle_s: float, start: Literal["beginning", "now"]
    ) -> Generator[Answer, None, None]:
        with self._consumer() as consumer:
            starts = ends(consumer, self._connection, (topic,))
        if start == "beginning":
            starts = dict.fromkeys(starts, OFFSET_BEGINNING)
        with self._reader(starts) as reader:
            while (answer := reader.next_within(idle_s)) is not None:
                yield answer

    @contextmanager
    def _reader(self, starts: Mapping[tuple[str, int], int]) -> Iterator[AnswerReader]:
        with self._consumer() as consumer:
            yield AnswerReader(consumer, self._connection, starts, self.topics.dead_letters, self._decoder)

    @contextmanager
    def _consumer(self) -> Iterator[Consumer]:
        try:
            consumer = Consumer(self._connection.consumer_options())
        except KafkaException as error:
            raise _refused(error) from error
        self._open.add(consumer)
        try:
            yield consumer
        finally:
            if consumer in self._open:
                self._open.discard(consumer)
                consumer.close()

    @contextmanager
    def _producer(self, most: int) -> Iterator[Producer]:
        """A producer, without a message left in it at the end; it is closed when nothing refers to it any more.

        Args:
            most: bytes of a message, and of a batch, which the broker refuses as a whole.
        """
        try:
            producer = Producer({"batch.size": min(most, _BATCH_BYTES)} | self._connection.producer_options())
        except KafkaException as error:
            raise _refused(error) from error
        try:
            yield producer
        except BaseException:
            producer.purge()  # flush would wait for what the broker does not take
            raise
        finally:
            producer.flush(_CLOSE_S)


def _refused(error: KafkaException) -> ClientError:
    return ClientError(
        f"the Kafka client refuses its options ({error.args[0].str()}): correct Client(options=...)"
    )
