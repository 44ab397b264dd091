"""`virnucpro publish`: sequence files into the input topic."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from consumer.cli.verbosity import Quiet

if TYPE_CHECKING:
    from confluent_kafka import Producer

    from consumer.cli.files.inputs import Reader, Size
    from consumer.cli.topics.embedded_room import EmbeddedRoom
    from consumer.cli.topics.publisher import Publisher
    from consumer.config.settings import ServiceSettings

STALL_FACTOR = 3
READER_STALL_S = 60.0  # a long record takes the service longer than any broker takes to answer


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
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="N", help="Records a second. [default: no limit]"),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(min=0.1, metavar="S", help="Seconds to wait for the broker's first answer."),
    ] = 10.0,
    no_check: Annotated[
        bool,
        typer.Option("--no-check", help="Send records whatever letters they hold, such as proteins."),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Publish sequence files to Kafka; the record id is the key of its message.

    Files are read through once before anything is sent, so that one that is damaged, or holds letters that are
    not nucleotide codes, sends nothing (standard input and pipes are sent as they come). Client options such as
    VIRNUCPRO_KAFKA_SECURITY_PROTOCOL are honoured. Records are written as a service with the same settings reads them:
    in Avro, or in JSON with VIRNUCPRO_INPUT_FORMAT=json; with VIRNUCPRO_SCHEMA_REGISTRY_URL in Confluent framing. The
    embedded broker holds little: what goes to it waits for the service to read it.
    The exit code is 0 when the broker has confirmed every record.

    Example: `virnucpro publish reads.fasta.gz --bootstrap 127.0.0.1:40001 --rate 100`
    """
    from confluent_kafka import Producer

    from consumer.cli.files.inputs import count_records, read_nucleotides
    from consumer.cli.topics.client_settings import client_settings
    from consumer.cli.topics.publisher import Publisher
    from consumer.config.clients import new_client, publisher_config
    from consumer.kafka.cluster import BrokerWatch, await_topics, is_embedded
    from consumer.registry.service_codec import open_registry, publisher_codec
    from virnucpro_core.sequence.fasta import read_sequences

    settings = client_settings(bootstrap)
    topic = topic or settings.input_topic
    address = settings.kafka_bootstrap_servers
    watch = BrokerWatch()
    read = read_sequences if no_check else read_nucleotides
    size = count_records(fasta, read)
    config = publisher_config(address, settings.kafka) | {"error_cb": watch.on_error}
    producer = new_client(Producer, config)
    counts = await_topics(producer, [topic], address, watch, timeout, "command")
    with ExitStack() as stack:
        codec = publisher_codec(settings, open_registry(settings, stack), topic, timeout)
        room = None
        if is_embedded(producer, address):
            room = _room(settings, topic, counts[topic], producer, stack)
        publisher = Publisher(producer, topic, STALL_FACTOR * timeout, rate, watch.why, room, codec)
        _send(publisher, fasta, read, size, f"{address}, topic {topic}")


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


def _send(publisher: Publisher, paths: list[str], read: Reader, size: Size | None, target: str) -> None:
    """Publish every record of the files and tell what became of them."""
    from consumer.cli.error_messages import UserError, tell
    from consumer.cli.progress import record_bar
    from schemas import SequenceRecord
    from virnucpro_core.sequence.fasta import SequenceFileError

    began_at = time.monotonic()
    with record_bar("publishing", size) as done:
        try:
            for path in paths:
                for record_id, description, sequence in read(path):
                    publisher.publish(SequenceRecord(record_id, sequence, description))
                    done.add(len(sequence))
        except SequenceFileError as error:
            publisher.finish()
            raise UserError(f"{error} ({publisher.delivered} records before it were published)") from error
        publisher.finish()
    if publisher.failed:
        raise UserError(
            f"{publisher.failed} of {publisher.sent} records were not delivered: "
            f"{'; '.join(publisher.failures)}"
        )
    seconds = time.monotonic() - began_at
    tell(
        f"published {publisher.delivered:,} records, {done.bases:,} bases, to {target} in {seconds:.1f} s",
    )
