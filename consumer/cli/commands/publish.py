"""`virnucpro publish`: sequence files into the input topic."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import typer

from consumer.cli.verbosity import Quiet

if TYPE_CHECKING:
    from confluent_kafka import Message, Producer
    from confluent_kafka.admin import AdminClient

    from consumer.cli.files.inputs import Reader, Size
    from consumer.cli.topics.awaited import Awaited
    from consumer.cli.topics.embedded_room import EmbeddedRoom
    from consumer.cli.topics.journal import Journal
    from consumer.cli.topics.keys import KeyOf
    from consumer.cli.topics.publisher import Delivery, Outcome, Publisher
    from consumer.config.settings import ServiceSettings
    from schemas import SequenceRecord
    from schemas.codecs import AnswerDecoder
    from virnucpro_client.parts import Part

STALL_FACTOR = 3
BATCH_BYTES = 1_000_000  # librdkafka's own
READER_STALL_S = 60.0  # a long record takes the service longer than any broker takes to answer
WAITING_PANEL = "To wait for the answers"
AnswerFormat = Literal["tsv", "jsonl", "contigs", "virnucpro", "virnucpro-v1"]


def publish(
    fasta: Annotated[
        list[str],
        typer.Argument(metavar="FASTA...", help="FASTA, FASTQ or BAM files, compressed or not; - is stdin."),
    ],
    bootstrap: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Kafka broker. [default: VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS]"),
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="Topic to write to. [default: VIRNUCPRO_INPUT_TOPIC, or sequences]")
    ] = None,
    key: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="Key of a message: id, none, or field:NAME for NAME=value in the header line.",
        ),
    ] = "id",
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="N", help="Records a second. [default: no limit]"),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keep there what was sent; the same command goes on there when it was interrupted.",
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(min=0.1, metavar="S", help="Seconds to wait for the broker's first answer."),
    ] = 10.0,
    no_check: Annotated[
        bool,
        typer.Option("--no-check", help="Send records whatever letters they hold, such as proteins."),
    ] = False,
    chunk_size: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Chunk size of the service's model: a record that is too large is cut there. 500, or 300.",
        ),
    ] = 500,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help="Collect the predictions of these records, until each has one or a dead letter.",
            rich_help_panel=WAITING_PANEL,
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where the predictions go; a folder for virnucpro. [default: stdout]",
            rich_help_panel=WAITING_PANEL,
        ),
    ] = None,
    form: Annotated[
        AnswerFormat | None,
        typer.Option("--format", help="As for predict. [default: tsv]", rich_help_panel=WAITING_PANEL),
    ] = None,
    deadline: Annotated[
        float,
        typer.Option(
            min=0.1,
            metavar="S",
            help="Seconds to wait for answers after the last record was sent.",
            rich_help_panel=WAITING_PANEL,
        ),
    ] = 600.0,
    quiet: Quiet = False,
) -> None:
    """Publish sequence files to Kafka; the record id is the key of its message.

    Files are read through once before anything is sent, so that one that is damaged, or holds letters that are
    not nucleotide codes, sends nothing (standard input and pipes are sent as they come). Client options such as
    VIRNUCPRO_KAFKA_SECURITY_PROTOCOL are honoured. Records are written as a service with the same settings reads them:
    in Avro, or in JSON with VIRNUCPRO_INPUT_FORMAT=json; with VIRNUCPRO_SCHEMA_REGISTRY_URL in Confluent framing. The
    embedded broker holds little: what goes to it waits for the service to read it. A record that is larger than the
    broker or the service takes is sent in parts; --wait joins their predictions, and so does `watch --join`.
    The exit code is 0 when the broker has confirmed every record and, with --wait, every record has its prediction. A
    record that has none is named with the reason: not delivered, a dead letter, or no answer before --deadline.

    Example: `virnucpro publish reads.fasta.gz --bootstrap 127.0.0.1:40001 --wait -o reads.tsv`
    """
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient

    from consumer.cli.error_messages import UserError
    from consumer.cli.files.inputs import count_records, read_nucleotides
    from consumer.cli.topics.client_settings import client_settings
    from consumer.cli.topics.journal import Journal
    from consumer.cli.topics.keys import key_of
    from consumer.cli.topics.publisher import Publisher
    from consumer.config.clients import asking_config, new_client, publisher_config
    from consumer.errors import ExitCode
    from consumer.kafka.cluster import BrokerWatch, await_topics, is_embedded
    from consumer.registry.service_codec import any_decoder, open_registry, publisher_codec
    from virnucpro_client.parts import Packer
    from virnucpro_core.sequence.fasta import read_sequences

    if wait and resume is not None:
        raise UserError("--wait and --resume do not go together: leave one of them out", ExitCode.USAGE)
    if output is not None and not wait:
        raise UserError("--output holds predictions: set --wait as well", ExitCode.USAGE)
    if form is not None and not wait:
        raise UserError("--format is that of the predictions: set --wait as well", ExitCode.USAGE)
    form = form or "tsv"
    settings = client_settings(bootstrap)
    topic = topic or settings.input_topic
    address = settings.kafka_bootstrap_servers
    target = f"{address}, topic {topic}"
    key_for = key_of(key)
    answers = _target(fasta, form, output) if wait else None
    journal = Journal(resume, fasta, target) if resume is not None else None
    watch = BrokerWatch()
    read = read_sequences if no_check else read_nucleotides
    size = count_records(fasta, read)
    admin = new_client(AdminClient, asking_config(settings) | {"error_cb": watch.on_error})
    counts = await_topics(admin, [topic], address, watch, timeout, "command")
    embedded = is_embedded(admin, address)
    most = min(settings.max_message_bytes, _own_limit(settings), _takes(admin, topic, embedded))
    # A batch is refused as a whole: it must not be larger than the topic takes.
    batches = {"batch.size": min(most, BATCH_BYTES)}
    config = publisher_config(address, settings.kafka) | {"error_cb": watch.on_error}
    producer = new_client(Producer, batches | config)
    with ExitStack() as stack:
        registry = open_registry(settings, stack)
        codec = publisher_codec(settings, registry, topic, timeout)
        room = _room(settings, topic, counts[topic], producer, stack) if embedded else None
        packer = Packer(codec, most, settings.max_sequence_bases, chunk_size)
        publisher = Publisher(producer, topic, STALL_FACTOR * timeout, rate, watch.why, room, packer)
        awaited = None
        if answers is not None:
            awaited = _awaited(settings, topic, form, answers, timeout, any_decoder(registry), stack)
        run = _Run(publisher, key_for, counts[topic], journal, awaited)
        run.send(fasta, read, size, target)
        if awaited is not None:
            run.wait(awaited, deadline, answers)
    run.complain()


def _own_limit(settings: ServiceSettings) -> int:
    """The bytes of the largest message that the client sends, where an option says so."""
    return _bytes_of(settings.kafka.get("message.max.bytes"))


def _takes(admin: AdminClient, topic: str, embedded: bool) -> int:
    """The bytes of the largest message that the topic takes; any number where the broker does not tell."""
    from consumer.kafka.topic_admin import find_topics
    from consumer.kafka.topic_plan import MAX_MESSAGE
    from virnucpro_client.parts import ANY_SIZE

    if embedded:  # it answers no such question
        return ANY_SIZE
    found = find_topics(admin, [topic]).get(topic)
    return _bytes_of(None if found is None else (found.config or {}).get(MAX_MESSAGE))


def _bytes_of(option: str | None) -> int:
    """The bytes that an option of Kafka names; any number where it is not set."""
    from virnucpro_client.parts import ANY_SIZE

    return int(option) if option is not None and option.isdecimal() else ANY_SIZE


def _room(
    settings: ServiceSettings, topic: str, partitions: int, producer: Producer, stack: ExitStack
) -> EmbeddedRoom:
    """What an embedded broker has room for; waiting serves the producer."""
    from confluent_kafka import Consumer

    from consumer.cli.topics.embedded_room import EmbeddedRoom, GroupBacklog
    from consumer.config.clients import common_config, new_client

    client = new_client(Consumer, common_config(settings) | {"group.id": settings.group_id})
    stack.callback(client.close)
    return EmbeddedRoom(
        GroupBacklog(client, topic, partitions), settings.group_id, producer.poll, READER_STALL_S
    )


def _target(inputs: list[str], form: AnswerFormat, output: Path | None) -> Path | TextIO:
    """Where predictions go; what cannot be written is refused before anything is sent."""
    from consumer.cli.files.targets import answers_target

    return answers_target(inputs, form, output)


def _awaited(
    settings: ServiceSettings,
    topic: str,
    form: AnswerFormat,
    target: Path | TextIO,
    timeout: float,
    decoder: AnswerDecoder,
    stack: ExitStack,
) -> Awaited:
    """Readers of the topics for answers from where they end now, and the report."""
    from confluent_kafka import Consumer

    from consumer.cli.files.targets import writing
    from consumer.cli.output.prediction_result import outcome_of
    from consumer.cli.topics.awaited import Awaited
    from consumer.cli.topics.reading import Reader, ends_now, reader_config
    from consumer.config.clients import new_client
    from consumer.kafka.cluster import BrokerWatch, await_topics
    from virnucpro_core.scoring.report import Details, report_of, reports

    watch = BrokerWatch()
    consumer = new_client(Consumer, reader_config(settings) | {"error_cb": watch.on_error})
    stack.callback(consumer.close)
    answers = [settings.output_topic, settings.dlq_topic]
    address = settings.kafka_bootstrap_servers
    partitions = await_topics(consumer, answers, address, watch, timeout, "command")
    reader = Reader(consumer, partitions, ends_now(consumer, partitions), watch.why)
    stack.enter_context(writing(str(target) if isinstance(target, Path) else "standard output"))
    write = stack.enter_context(reports([report_of(form, target, Details())]))
    return Awaited(
        reader, topic, settings.dlq_topic, lambda prediction: write(outcome_of(prediction)), decoder
    )


class _Run:
    """One run: what is sent, and what becomes of it."""

    def __init__(
        self,
        publisher: Publisher,
        key_of: KeyOf,
        partitions: int,
        journal: Journal | None,
        awaited: Awaited | None,
    ) -> None:
        self._publisher, self._key_of, self._partitions = publisher, key_of, partitions
        self._journal, self._awaited = journal, awaited
        self._without_answer = 0

    def send(self, paths: list[str], read: Reader, size: Size | None, target: str) -> None:
        """Publish every record of the files and tell what became of them.

        Raises:
            UserError: a stream is damaged, or the broker takes no records any more.
        """
        from consumer.cli.error_messages import UserError, tell, warn
        from consumer.cli.progress import record_bar
        from consumer.cli.topics.repeated_ids import RepeatedIds
        from schemas import SequenceRecord
        from virnucpro_core.sequence.fasta import SequenceFileError

        began_at = time.monotonic()
        publisher, journal, repeated = self._publisher, self._journal, RepeatedIds()
        number = 0
        try:
            with record_bar("publishing", size) as done:
                try:
                    for path in paths:
                        for record_id, description, sequence in read(path):
                            repeated.add(record_id)
                            if journal is None or not journal.is_confirmed(number):
                                self._send_one(number, SequenceRecord(record_id, sequence, description))
                            done.add(len(sequence))
                            number += 1
                except SequenceFileError as error:
                    publisher.finish()
                    raise UserError(
                        f"{error} ({publisher.delivered} records before it were published)"
                    ) from error
                publisher.finish()
        finally:
            if journal is not None:
                journal.save()
        if repeated.warning is not None:
            warn(repeated.warning)
        seconds = time.monotonic() - began_at
        before = f" ({journal.skipped:,} were sent before)" if journal is not None and journal.skipped else ""
        parts = f" ({publisher.in_parts:,} in parts)" if publisher.in_parts else ""
        tell(
            f"published {publisher.delivered:,} records{before}{parts}, {done.bases:,} bases, to {target} "
            f"in {seconds:.1f} s"
        )

    def wait(self, awaited: Awaited, seconds: float, target: Path | TextIO | None) -> None:
        """Wait for the answers, and name the records that have no prediction."""
        from consumer.cli.error_messages import tell, warn
        from consumer.clock import Deadline

        missing = [each for each in awaited.wait(Deadline.after(seconds)) if each.kind != "not_delivered"]
        self._without_answer = len(missing)
        for each in missing:
            warn(f"record {each.record_id!r} has no prediction: {each.kind.replace('_', ' ')}, {each.why}")
        where = f", written to {target}" if isinstance(target, Path) else ""
        tell(f"{awaited.predicted:,} of {self._publisher.delivered:,} records have their prediction{where}")

    def complain(self) -> None:
        """Raises UserError if a record was not delivered or has no prediction."""
        from consumer.cli.error_messages import UserError

        publisher = self._publisher
        if publisher.failed:
            raise UserError(
                f"{publisher.failed} of {publisher.sent} records were not delivered: they are named above"
            )
        if self._without_answer:
            raise UserError(
                f"{self._without_answer} of {publisher.sent} records have no prediction: they are named above"
            )

    def _send_one(self, number: int, record: SequenceRecord) -> None:
        if self._journal is not None:
            self._journal.sending(number)
        if self._awaited is not None:
            self._awaited.expect(number, record.id)
        self._publisher.publish(record, self._key_of, self._outcome(number), self._partitions)
        if self._awaited is not None:
            self._awaited.take()

    def _outcome(self, number: int) -> Outcome:
        def outcome(part: Part | None, message: Message | None, why: str, delivery: Delivery) -> None:
            if self._journal is not None and not delivery.waiting and not delivery.refused:
                self._journal.confirmed(number)
            if self._awaited is None:
                return
            if message is not None:
                self._awaited.confirmed(number, part, message)
            else:
                self._awaited.not_delivered(number, part, why)
            if not delivery.waiting:
                self._awaited.settled()

        return outcome
