"""`virnucpro demo`: the main job end to end on this machine, with real sequences and an in-memory broker."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from consumer.cli.invocation import typed
from consumer.cli.options import V1Attention
from consumer.cli.streams import signals_held

if TYPE_CHECKING:
    from consumer.cli.demo.demo_service import ServiceProcess
    from consumer.cli.demo.scoreboard import Scoreboard
    from consumer.cli.topics.reading import Reader

INPUT, OUTPUT, DLQ = "sequences", "predictions", "sequences.dlq"
PARTITIONS = 4
SILENCE_S = 60.0
_METRICS_S = 5.0

EXPLANATION = """
score: the highest of the class that the record was called; chunks: the viral ones of all; contig rule: a second
opinion on the whole record, which weighs all chunks and may be Ambiguous.
The model was trained on the genomes of the sample, as on all that there were: it shows how the service works. How good
the model is on genomes that it has not seen, and what it is for, says the README.
"""
NEXT = """\
Where to go next
  Score your own file:      {virnucpro} predict reads.fasta
  Run the service:          {virnucpro} serve
  ... and use it from another terminal, with the address that it prints:
                            {virnucpro} publish reads.fasta --bootstrap HOST:PORT
                            {virnucpro} watch --bootstrap HOST:PORT
  See what is scored:       {virnucpro} frames reads.fasta
  Every command:            docs/cli.md
  What the sample is:       consumer/data/README.md"""


def demo(
    v1_attention: V1Attention = False,
) -> None:
    """Run the whole service on real sequences, and show each prediction next to the known label.

    Starts the service on a broker in memory with the small bundled model, publishes the bundled sample and
    shows the predictions as they arrive. Needs no Kafka, no GPU and no network, and leaves nothing behind.

    Example: `virnucpro demo`
    """
    from rich.console import Console

    from consumer.cli.demo.demo_service import ServiceProcess
    from consumer.cli.demo.sample import sample_truth
    from consumer.cli.demo.scoreboard import COLUMNS, Scoreboard
    from consumer.cli.output.table import Rows
    from consumer.kafka.embedded import EmbeddedBroker
    from consumer.ops import logs

    logs.configure("critical", "auto")  # the broker's clients here; the service logs separately
    console = Console(highlight=False)
    say = partial(console.print, soft_wrap=True)
    truth = sample_truth()
    with ExitStack() as stack:
        stack.enter_context(_ending_in_order())
        broker = stack.enter_context(EmbeddedBroker(dict.fromkeys((INPUT, OUTPUT, DLQ), PARTITIONS)))
        address = broker.bootstrap_servers
        say(f"A Kafka broker in memory is at {address}. The service starts and loads its model ...")
        with signals_held():
            service = stack.enter_context(ServiceProcess(address, v1_attention))
        service.wait_until_ready()
        say(f"It is ready, with its metrics at {service.http}/metrics. Publishing the sample ...\n")
        reader = _open_reader(stack, address)
        began_at = time.monotonic()
        bases = _publish_sample(address)
        with Rows(console, COLUMNS) as rows:
            board = Scoreboard(truth, rows)
            _collect(reader, service, board)
        seconds = time.monotonic() - began_at
        tokens = _tokens(service, len(truth))
    say(f"\n{len(truth)} records, {bases:,} bases, {tokens:,} tokens in {seconds:.1f} s.")
    for line in board.summary():
        say(line)
    say(EXPLANATION, style="dim")
    say(NEXT.format(virnucpro=typed()))


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """SIGTERM and a closed terminal end the demo as Ctrl-C does: the service is taken down first."""

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _collect(reader: Reader, service: ServiceProcess, board: Scoreboard) -> None:
    """Show predictions until every record has one; raises UserError when the service ends or stalls."""
    from consumer.cli.error_messages import UserError
    from consumer.cli.topics.reading import Stop, follow

    silent_since = time.monotonic()
    while not board.complete:
        if follow(reader, DLQ, board, Stop(until_idle=0.2, count=1)):
            silent_since = time.monotonic()
            continue
        service.check()
        if time.monotonic() - silent_since > SILENCE_S:
            raise UserError(
                f"no prediction came for {SILENCE_S:.0f} s: run `{typed('serve')}` to see what it logs"
            )


def _open_reader(stack: ExitStack, address: str) -> Reader:
    from confluent_kafka import Consumer

    from consumer.cli.topics.reading import Reader, reader_config
    from consumer.config.settings import load_settings

    settings = load_settings({}, kafka_bootstrap_servers=address)
    consumer = Consumer(reader_config(settings))
    stack.callback(consumer.close)
    return Reader(consumer, {OUTPUT: PARTITIONS, DLQ: PARTITIONS}, "beginning")


def _publish_sample(address: str) -> int:
    """Publish the sample as `virnucpro publish` does; returns how many bases it has."""
    from confluent_kafka import Producer

    from consumer.cli.demo.sample import sample_fasta
    from consumer.cli.topics.publisher import Publisher
    from consumer.config.clients import publisher_config
    from schemas import SequenceRecord
    from virnucpro_core.sequence.fasta import read_sequences

    publisher = Publisher(Producer(publisher_config(address, {})), INPUT, SILENCE_S)
    bases = 0
    with sample_fasta() as path:
        for record_id, description, sequence in read_sequences(str(path)):
            publisher.publish(SequenceRecord(record_id, sequence, description))
            bases += len(sequence)
    publisher.finish()
    return bases


def _tokens(service: ServiceProcess, records: int) -> int:
    """What the service counts: once the broker has confirmed, which may be just after the reader saw it."""
    totals = service.totals()
    until = time.monotonic() + _METRICS_S
    while totals.get("vnp_records_total", 0) < records and time.monotonic() < until:
        time.sleep(0.05)
        totals = service.totals()
    return int(totals.get("vnp_tokens_total", 0))
