"""`virnucpro watch`: predictions as they arrive, as a table or as JSON lines."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from consumer.cli.topics.reading import Show


def watch(
    bootstrap: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Kafka broker. [default: VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS]"),
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="Topic to read. [default: VIRNUCPRO_OUTPUT_TOPIC, or predictions]")
    ] = None,
    dlq: Annotated[
        bool, typer.Option("--dlq", help="Show the dead letters as well (topic VIRNUCPRO_DLQ_TOPIC).")
    ] = False,
    start: Annotated[
        Literal["beginning", "now"],
        typer.Option("--from", help="Begin with the first message that there is, or with what comes now."),
    ] = "beginning",
    as_json: Annotated[
        bool,
        typer.Option("--json", help="A JSON object a line: the whole prediction, and where it was found."),
    ] = False,
    until_idle: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="S", help="Stop when nothing has come for S seconds. [default: go on]"),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop after N messages. [default: go on]")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, metavar="S", help="Seconds to wait for the broker's first answer.")
    ] = 10.0,
) -> None:
    """Watch predictions arrive. No offset is committed, so any number of people can watch at once.

    Every format and framing that the service can write is read, Confluent's by VIRNUCPRO_SCHEMA_REGISTRY_URL if that
    is set. Ends by itself with --count or --until-idle, otherwise with Ctrl-C. The exit code is 0, but 1 when --count
    was not reached before --until-idle.

    Example: `virnucpro watch --bootstrap 127.0.0.1:40001 --json --count 100 | jq -r '[.id, .verdict] | @tsv'`
    """
    from confluent_kafka import Consumer

    from consumer.cli.error_messages import UserError
    from consumer.cli.output.json_lines import JsonLines
    from consumer.cli.output.table import WatchTable
    from consumer.cli.topics.client_settings import client_settings
    from consumer.cli.topics.reading import Reader, follow, reader_config
    from consumer.config.clients import new_client
    from consumer.kafka.cluster import BrokerWatch, await_topics
    from consumer.registry.service_codec import any_decoder, open_registry

    settings = client_settings(bootstrap)
    address = settings.kafka_bootstrap_servers
    topics = [topic or settings.output_topic, *([settings.dlq_topic] if dlq else [])]
    watched = BrokerWatch()
    with ExitStack() as stack:
        consumer = new_client(Consumer, reader_config(settings) | {"error_cb": watched.on_error})
        stack.callback(consumer.close)
        partitions = await_topics(consumer, topics, address, watched, timeout, "command")
        decoder = any_decoder(open_registry(settings, stack))
        reader = Reader(consumer, partitions, start, watched.why)
        show: Show = JsonLines() if as_json else stack.enter_context(WatchTable())
        seen = follow(reader, settings.dlq_topic, show, until_idle, count, decoder)
    if count is not None and seen < count:
        raise UserError(
            f"{seen} of {count} messages had come when nothing more came for {until_idle:g} s: "
            "is the service running, and is this its topic?"
        )
