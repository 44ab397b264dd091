"""`virnucpro dlq`: look at dead letters, export them, and publish their records again once the cause is mended."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consumer.cli.options import AsJson, Bootstrap, FirstAnswer, command_group
from consumer.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confluent_kafka import Consumer

    from consumer.cli.dlq.letters import Decode, FoundLetter, LetterFilter
    from consumer.cli.dlq.outlet import Outlet
    from consumer.cli.topics.reading import Reader
    from consumer.config.settings import ServiceSettings
    from consumer.kafka.offset_map import OffsetMap
    from schemas.codecs import AnswerDecoder, RecordDecoder

dlq = command_group("Dead letters: look at them, export them, replay them once the cause is mended.")

BATCH_PATIENCE_S = 120.0

Reasons = Annotated[
    list[str] | None,
    typer.Option("--reason", metavar="REASON", help="Only of this reason; may be given several times."),
]
Sources = Annotated[
    list[str] | None,
    typer.Option(
        "--source",
        metavar="TOPIC[/PARTITION[/OFFSET]]",
        help="Only of messages from there; may be given several times.",
    ),
]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="Only those given up since then: 2h, 7d (ago), or 2026-01-31T12:00 (UTC)."
    ),
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Only those given up before then.")]
Topic = Annotated[
    str | None,
    typer.Option(
        "--dlq-topic", metavar="TOPIC", help="Topic to read. [default: VIRNUCPRO_DLQ_TOPIC, or sequences.dlq]"
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        metavar="GROUP",
        help="Group that keeps the progress of replays. [default: VIRNUCPRO_GROUP_ID.dlq-replay]",
    ),
]
Open = Annotated[bool, typer.Option("--open", help="Only those that have not been replayed.")]


@dlq.command()
def inspect(
    reason: Reasons = None,
    source: Sources = None,
    since: Since = None,
    until: Until = None,
    only_open: Open = False,
    most: Annotated[
        int | None, typer.Option("--max", min=0, metavar="N", help="Show N of them; all are counted.")
    ] = None,
    bootstrap: Bootstrap = None,
    topic: Topic = None,
    group: Group = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON object a line instead of the table.")
    ] = False,
    timeout: FirstAnswer = 10.0,
) -> None:
    """Show the dead letters that there are: reason, source, time, and the record where it can be decoded.

    Reads the topic to its end and changes nothing. The last line counts them by reason.

    Example: `virnucpro dlq inspect --bootstrap kafka:9092 --reason sequence_too_long --since 7d --open`
    """
    from rich.console import Console

    from consumer.cli.dlq.letter_table import LetterTable, letter_json
    from consumer.escaping import json_line

    wanted = _filter(reason, source, since, until)
    with ExitStack() as stack:
        letters = _Letters(bootstrap, topic, group, timeout, stack)
        table = LetterTable(Console(highlight=False, stderr=as_json), letters.decode)
        if not as_json:
            stack.enter_context(table)
        shown = 0
        for found, replayed in letters.found(wanted, only_open):
            show = most is None or shown < most
            shown += show
            table.add(found, replayed, shown=show and not as_json)
            if as_json and show:
                sys.stdout.write(json_line(letter_json(found, letters.decode, replayed)) + "\n")
    if not as_json:
        print(table.summary)


@dlq.command()
def export(
    output: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON lines; the file appears when it is complete.")
    ],
    reason: Reasons = None,
    source: Sources = None,
    since: Since = None,
    until: Until = None,
    only_open: Open = False,
    bootstrap: Bootstrap = None,
    topic: Topic = None,
    group: Group = None,
    timeout: FirstAnswer = 10.0,
) -> None:
    """Write dead letters to a file, whole: the raw bytes, the headers, and the record where it can be decoded.

    The lines are those of `virnucpro dlq inspect --json`.

    Example: `virnucpro dlq export letters.jsonl --bootstrap kafka:9092 --reason malformed`
    """
    from consumer.cli.dlq.letter_table import letter_json
    from consumer.cli.error_messages import tell
    from consumer.cli.files.targets import check_file, writing
    from consumer.escaping import json_line
    from virnucpro_core.atomic_files import atomic_write

    wanted = _filter(reason, source, since, until)
    check_file(output, "FILE", [])
    count = 0
    with ExitStack() as stack:
        letters = _Letters(bootstrap, topic, group, timeout, stack)
        stack.enter_context(writing(output))
        (draft,) = stack.enter_context(atomic_write(output))
        stream = stack.enter_context(draft.open("w", encoding="utf-8", newline=""))
        for found, replayed in letters.found(wanted, only_open):
            stream.write(json_line(letter_json(found, letters.decode, replayed)) + "\n")
            count += 1
    tell(f"exported {count:,} dead letters to {output}")


@dlq.command()
def replay(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would be done, and do nothing.")
    ] = False,
    reason: Reasons = None,
    source: Sources = None,
    since: Since = None,
    until: Until = None,
    most: Annotated[int | None, typer.Option("--max", min=1, metavar="N", help="Replay N of them.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, metavar="N", help="Records a second. [default: no limit]")
    ] = None,
    max_replays: Annotated[
        int, typer.Option(min=1, metavar="N", help="Replay one record N times at most.")
    ] = 3,
    force: Annotated[
        bool, typer.Option("--force", help="Replay also what would fail again by the settings as they are.")
    ] = False,
    close_skipped: Annotated[
        bool, typer.Option("--close-skipped", help="Do not look at the skipped and exhausted ones again.")
    ] = False,
    bootstrap: Bootstrap = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--topic",
            metavar="TOPIC",
            help="Replay to this topic, dead letters of every input topic. [default: VIRNUCPRO_INPUT_TOPIC, its own "
            "dead letters]",
        ),
    ] = None,
    topic: Topic = None,
    group: Group = None,
    as_json: AsJson = False,
    timeout: FirstAnswer = 10.0,
) -> None:
    """Publish the records of dead letters again: value, key and headers as they were.

    Run it with the service's own settings, after the cause is mended: what would fail again is skipped (a sequence
    over VIRNUCPRO_MAX_SEQUENCE_BASES, a damaged message), and looked at again by the next replay. Each record is
    replayed once, also after a kill: it is sent in one transaction with the progress, which a consumer group keeps. A
    header vnp-dlq-replays counts. The last line counts replayed, skipped, exhausted (--max-replays) and failed ones;
    the exit code is 1 when the broker has refused some.

    Example: `VIRNUCPRO_MAX_SEQUENCE_BASES=5000000 virnucpro dlq replay --bootstrap kafka:9092 --dry-run`
    """
    from confluent_kafka import KafkaException

    from consumer.cli.dlq.replay import Backlog, Replay, ends_of
    from consumer.cli.dlq.rule import ReplayRule
    from consumer.cli.error_messages import UserError
    from consumer.cli.topics.reading import Reader

    wanted = _filter(reason, source, since, until)
    with ExitStack() as stack:
        cluster = _Cluster(bootstrap, topic, group, timeout, stack)
        target = to or cluster.settings.input_topic
        rule = ReplayRule(
            cluster.settings,
            cluster.records,
            target,
            to is not None,
            cluster.partitions_of(target),
            max_replays,
            force,
        )
        outlet = None if dry_run else cluster.outlet(stack)
        if outlet is not None:
            outlet.open()
        progress = cluster.progress()
        try:
            ends = ends_of(cluster.consumer, cluster.topic, cluster.partitions)
        except KafkaException as error:
            raise UserError(
                f"the broker does not say where the topic ends ({error.args[0].str()})"
            ) from error
        starts = {(cluster.topic, number): each.position for number, each in progress.items()}
        reader = Reader(cluster.consumer, {cluster.topic: cluster.partitions}, starts, cluster.why)
        run = Replay(cluster.topic, rule, progress, outlet, rate, close_skipped)
        try:
            run.run(Backlog(reader, cluster.answers, progress, ends), wanted, most)
        finally:
            _say(run.counts.as_json() | {"dry_run": dry_run}, f"{run.counts}", dry_run, as_json)
    if run.counts.failed:
        raise typer.Exit(ExitCode.RUNTIME)


def _say(counts: dict[str, object], line: str, dry_run: bool, as_json: bool) -> None:
    print(json.dumps(counts) if as_json else f"{'dry run: ' if dry_run else ''}{line}", flush=True)


class _Cluster:
    """A topic of dead letters, and the group that keeps the progress of its replays; it is never joined."""

    def __init__(
        self, bootstrap: str | None, topic: str | None, group: str | None, timeout: float, stack: ExitStack
    ) -> None:
        from confluent_kafka import Consumer

        from consumer.cli.topics.client_settings import client_settings
        from consumer.cli.topics.reading import reader_config
        from consumer.config.clients import new_client
        from consumer.kafka.cluster import BrokerWatch, await_topics
        from consumer.registry.service_codec import any_decoder, open_registry, record_decoder

        self.settings: ServiceSettings = client_settings(bootstrap)
        registry = open_registry(self.settings, stack)
        self.answers: AnswerDecoder = any_decoder(registry)
        self.records: RecordDecoder = record_decoder(self.settings, registry)
        self.topic = topic or self.settings.dlq_topic
        self.group = group or f"{self.settings.group_id}.dlq-replay"
        self._watch, self._timeout = BrokerWatch(), timeout
        self.why = self._watch.why
        config = reader_config(self.settings) | {
            "client.id": "virnucpro-dlq",
            "group.id": self.group,
            "error_cb": self._watch.on_error,
        }
        self.consumer: Consumer = new_client(Consumer, config)
        stack.callback(self.consumer.close)
        self._await_topics = await_topics
        self.partitions = self.partitions_of(self.topic)

    def partitions_of(self, topic: str) -> int:
        """How many partitions a topic has; a ServiceError when it does not exist."""
        address = self.settings.kafka_bootstrap_servers
        counts = self._await_topics(self.consumer, [topic], address, self._watch, self._timeout, "command")
        return counts[topic]

    def progress(self) -> dict[int, OffsetMap]:
        from consumer.cli.dlq.letters import progress_of

        return progress_of(self.consumer, self.topic, self.partitions)

    def outlet(self, stack: ExitStack) -> Outlet:
        """Where replayed records go: in transactions, unless the broker is an embedded one."""
        from confluent_kafka import Producer

        from consumer.cli.dlq.outlet import TRANSACTION_MS, OutletWithoutTransactions, TransactionalOutlet
        from consumer.config.clients import new_client, publisher_config
        from consumer.kafka.cluster import is_embedded

        address = self.settings.kafka_bootstrap_servers
        config = publisher_config(address, self.settings.kafka) | {
            "client.id": "virnucpro-dlq",
            "error_cb": self._watch.on_error,
        }
        if is_embedded(self.consumer, address):
            return OutletWithoutTransactions(new_client(Producer, config), self.consumer, BATCH_PATIENCE_S)
        # Not the id of any service: there a percent sign is escaped.
        config |= {"transactional.id": f"{self.group}.dlq%replay", "transaction.timeout.ms": TRANSACTION_MS}
        outlet = TransactionalOutlet(lambda: new_client(Producer, config), self.consumer, BATCH_PATIENCE_S)
        stack.callback(outlet.close)
        return outlet


class _Letters:
    """The dead letters that there are, with what replays have done."""

    def __init__(
        self, bootstrap: str | None, topic: str | None, group: str | None, timeout: float, stack: ExitStack
    ) -> None:
        from consumer.cli.topics.reading import Reader
        from consumer.delivery.answers import input_headers
        from consumer.scoring.preparation import read_record

        cluster = _Cluster(bootstrap, topic, group, timeout, stack)
        settings, codec = cluster.settings, cluster.records
        self._answers = cluster.answers
        self._progress: Mapping[int, OffsetMap] = cluster.progress()
        self._reader: Reader = Reader(
            cluster.consumer, {cluster.topic: cluster.partitions}, "beginning", cluster.why
        )
        self.decode: Decode = lambda found: read_record(
            codec, found.letter.value, input_headers(found.headers), settings.max_message_bytes, sys.maxsize
        )

    def found(self, wanted: LetterFilter, only_open: bool) -> Iterator[tuple[FoundLetter, bool]]:
        """Those that the filter takes, and whether each has been replayed."""
        from consumer.cli.dlq.letters import is_replayed, letters_until_the_end

        for found in letters_until_the_end(self._reader, self._answers):
            replayed = is_replayed(found, self._progress)
            if wanted.takes(found) and not (only_open and replayed):
                yield found, replayed


def _filter(
    reasons: list[str] | None, sources: list[str] | None, since: str | None, until: str | None
) -> LetterFilter:
    from consumer.cli.dlq.letters import LetterFilter
    from consumer.cli.error_messages import UserError
    from consumer.cli.topics.times import point_in_time
    from schemas import Reason

    unknown = [reason for reason in reasons or () if reason not in [each.value for each in Reason]]
    if unknown:
        known = ", ".join(each.value for each in Reason)
        raise UserError(f"--reason {unknown[0]} is not a reason: it takes {known}", ExitCode.USAGE)
    return LetterFilter(
        frozenset(map(Reason, reasons or ())),
        tuple(sources or ()),
        None if since is None else point_in_time(since, "--since"),
        None if until is None else point_in_time(until, "--until"),
    )
