"""`virnucpro watch`: predictions as they arrive, as a table, as JSON lines, or in the formats of `predict`."""

from __future__ import annotations

import struct
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from consumer.cli.options import Bootstrap, FirstAnswer

if TYPE_CHECKING:
    from consumer.cli.output.answer_tally import AnswerTally
    from consumer.cli.topics.reading import Show, Start, Stop, Wanted

FILTER_PANEL = "Which messages are shown"
END_PANEL = "Where it begins and ends"
OUTPUT_PANEL = "How they are shown"


AnswerFormat = Literal["tsv", "jsonl", "contigs", "virnucpro", "virnucpro-v1"]


class VerdictChoice(StrEnum):
    """`schemas.Verdict`, which is not imported for the help alone."""

    VIRUS = "virus"
    OTHERS = "others"
    NO_OPEN_FRAME = "no_open_frame"


def watch(
    bootstrap: Bootstrap = None,
    topic: Annotated[
        str | None, typer.Option(help="Topic to read. [default: VIRNUCPRO_OUTPUT_TOPIC, or predictions]")
    ] = None,
    dlq: Annotated[
        bool, typer.Option("--dlq", help="Show the dead letters as well (topic VIRNUCPRO_DLQ_TOPIC).")
    ] = False,
    verdict: Annotated[
        list[VerdictChoice] | None,
        typer.Option(
            help="Only predictions of this verdict; may be given several times.", rich_help_panel=FILTER_PANEL
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="SCORE",
            help="Only predictions with a virus score of SCORE or more.",
            rich_help_panel=FILTER_PANEL,
        ),
    ] = None,
    record_id: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="PATTERN",
            help="Only records whose id matches, with * and ?; of dead letters the key.",
            rich_help_panel=FILTER_PANEL,
        ),
    ] = None,
    start: Annotated[
        Literal["beginning", "now"],
        typer.Option(
            "--from",
            help="Begin with the first message that there is, or with what comes now.",
            rich_help_panel=END_PANEL,
        ),
    ] = "beginning",
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only answers to records published since then: 2h, 7d (ago), or 2026-01-31T12:00 (UTC).",
            rich_help_panel=END_PANEL,
        ),
    ] = None,
    until_end: Annotated[
        bool,
        typer.Option("--until-end", help="Stop at the end of the topic as it is.", rich_help_panel=END_PANEL),
    ] = False,
    until_idle: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            metavar="S",
            help="Stop when nothing has come for S seconds. [default: go on]",
            rich_help_panel=END_PANEL,
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Stop after N messages. [default: go on]", rich_help_panel=END_PANEL
        ),
    ] = None,
    join: Annotated[
        bool,
        typer.Option(
            "--join",
            help="Show records that were published in parts as one prediction each.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = False,
    join_within: Annotated[
        float,
        typer.Option(
            min=0.1,
            metavar="S",
            help="With --join: give a record up when no part of it has come for S seconds.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = 600.0,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="A JSON object a line: the whole prediction, and where it was found.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = False,
    form: Annotated[
        AnswerFormat | None,
        typer.Option("--format", help="One of the formats of predict.", rich_help_panel=OUTPUT_PANEL),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where that goes; a folder for virnucpro. [default: stdout]",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None,
    timeout: FirstAnswer = 10.0,
) -> None:
    """Watch predictions arrive. No offset is committed, so any number of people can watch at once.

    Every format and framing that the service can write is read, Confluent's by VIRNUCPRO_SCHEMA_REGISTRY_URL if that
    is set. Ends by itself with --until-end, --count or --until-idle, otherwise with Ctrl-C; a line at the end counts
    what was shown. The exit code is 0, but 1 when --count was not reached, and when a part of a record was missing with
    --join: the record is named.

    Example: `virnucpro watch --bootstrap 127.0.0.1:40001 --verdict virus --min-score 0.9 --since 2h --until-end -o
    viral.tsv`
    """
    from confluent_kafka import Consumer

    from consumer.cli.error_messages import UserError
    from consumer.cli.topics.client_settings import client_settings
    from consumer.cli.topics.reading import Joining, Reader, Stop, follow, offsets_since, reader_config
    from consumer.cli.topics.times import point_in_time
    from consumer.config.clients import new_client
    from consumer.errors import ExitCode
    from consumer.kafka.cluster import BrokerWatch, await_topics, is_embedded
    from consumer.registry.service_codec import any_decoder, open_registry

    since_ms = None if since is None else point_in_time(since, "--since")
    if since is not None and start == "now":
        raise UserError("--since and --from now do not go together: leave one of them out", ExitCode.USAGE)
    stop = Stop(until_idle, count, until_end)
    settings = client_settings(bootstrap)
    address = settings.kafka_bootstrap_servers
    topics = [topic or settings.output_topic, *([settings.dlq_topic] if dlq else [])]
    watched = BrokerWatch()
    with ExitStack() as stack:
        show = _show(as_json, form, output, stop, stack)
        consumer = new_client(Consumer, reader_config(settings) | {"error_cb": watched.on_error})
        stack.callback(consumer.close)
        partitions = await_topics(consumer, topics, address, watched, timeout, "command")
        decoder = any_decoder(open_registry(settings, stack))
        begin: Start = start
        if since_ms is not None:
            begin = offsets_since(consumer, partitions, since_ms, is_embedded(consumer, address))
        reader = Reader(consumer, partitions, begin, watched.why)
        wanted = _wanted(verdict, min_score, record_id, since_ms)
        joining = Joining(join_within) if join else None
        if joining is not None:
            stack.callback(joining.name_given_up, at_the_end=True)
        seen = follow(reader, settings.dlq_topic, show, stop, decoder, wanted, joining)
    if count is not None and seen < count:
        when = "the topic ended" if until_idle is None else f"nothing more came for {until_idle:g} s"
        raise UserError(
            f"{seen} of {count} messages had come when {when}: is the service running, and is this its topic?"
        )
    if joining is not None and joining.incomplete:
        raise UserError(f"{joining.incomplete} records in parts are incomplete: they are named above")


def _show(
    as_json: bool,
    form: AnswerFormat | None,
    output: Path | None,
    stop: Stop,
    stack: ExitStack,
) -> Show:
    """What is done with each message; what cannot be written is refused before anything is read."""
    from consumer.cli.error_messages import UserError
    from consumer.cli.files.targets import answers_target, writing
    from consumer.cli.output.json_lines import JsonLines
    from consumer.cli.output.report_lines import ReportLines
    from consumer.cli.output.table import WatchTable
    from consumer.errors import ExitCode
    from virnucpro_core.scoring.report import Details, report_of, reports

    if form is None and output is None:
        return JsonLines(_tally(stack)) if as_json else stack.enter_context(WatchTable())
    if as_json:
        raise UserError("--json goes with neither --format nor --output: see --format jsonl", ExitCode.USAGE)
    form = form or "tsv"
    target = answers_target([], form, output)
    endless = stop.until_idle is None and stop.count is None and not stop.at_the_end
    if endless and isinstance(target, Path):
        raise UserError(
            "a file is written when it is complete: say when, with --until-end, --until-idle or --count",
            ExitCode.USAGE,
        )
    stack.enter_context(writing(str(target) if isinstance(target, Path) else "standard output"))
    write = stack.enter_context(reports([report_of(form, target, Details())]))
    return ReportLines(write, _tally(stack))


def _tally(stack: ExitStack) -> AnswerTally:
    """Counts answers; the counts are printed on stderr when `stack` is unwound."""
    from consumer.cli.error_messages import tell
    from consumer.cli.output.answer_tally import AnswerTally

    tally = AnswerTally()
    stack.callback(lambda: tell(str(tally)))
    return tally


def _wanted(
    verdicts: list[VerdictChoice] | None,
    min_score: float | None,
    pattern: str | None,
    since_ms: int | None,
) -> Wanted:
    """Whether a message is shown; verdict and score concern predictions alone."""
    from fnmatch import fnmatchcase

    from confluent_kafka import Message

    from schemas import DeadLetter, Prediction

    # As a score is: 0.95 takes the score that prints as 0.95.
    least = None if min_score is None else struct.unpack("f", struct.pack("f", min_score))[0]

    def wanted(message: Message, answer: Prediction | DeadLetter) -> bool:
        if since_ms is not None and message.timestamp()[1] < since_ms:
            return False
        if isinstance(answer, DeadLetter):
            return pattern is None or fnmatchcase((answer.key or b"").decode(errors="replace"), pattern)
        if verdicts and answer.verdict.value not in [each.value for each in verdicts]:
            return False
        if least is not None and (answer.virus_score is None or answer.virus_score < least):
            return False
        return pattern is None or fnmatchcase(answer.id, pattern)

    return wanted
