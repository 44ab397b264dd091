"""Logging to stderr, for people on a terminal and as JSON lines elsewhere.

One way out for all: our own structlog loggers, librdkafka (through the logger in its configuration) and whatever
a library says by `logging`. What libraries say is throttled, and nothing shows a secret (`consumer.config.secrets`).
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from consumer.clock import Clock, monotonic
from consumer.config.secrets import redacted
from consumer.escaping import escaped
from consumer.kafka.wording import without_guesses
from consumer.throttle import Throttle

FORMATS = ("auto", "console", "json")
_LIBRDKAFKA = "librdkafka"
_THREAD = re.compile(r"^\[thrd:[^\]]*\]: ")
# Loggers of libraries that log every request or connection at the level info.
_CHATTY = ("httpcore", "httpx", "uvicorn", "urllib3")


# Fields that hold several lines on purpose.
_OF_LINES = ("exception", "threads")
# Fields that are ours to the letter.
_OURS = ("event", "level", "logger", "timestamp")


class Repeats(logging.Filter):
    """Throttles the lines of libraries; lines that differ only in their numbers are the same.

    librdkafka logs every attempt to connect, twenty a second for each client while a broker is down; asyncio every
    connection that it cannot accept; uvicorn every request that it cannot read.
    """

    def __init__(self, clock: Clock = monotonic) -> None:
        super().__init__()
        self._throttle = Throttle(clock=clock)

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, dict):  # our own, by structlog
            return True
        return self._throttle.allows((record.name, re.sub(r"0x[0-9a-f]+|\d+", "", record.getMessage())))


def _escape_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """For a terminal: control codes and line breaks in what others wrote (keys, ids, details) as escapes."""
    return {name: _escape(name, value) if isinstance(value, str) else value for name, value in event.items()}


def _escape(name: str, value: str) -> str:
    """A traceback keeps its lines."""
    return "\n".join(map(escaped, value.split("\n"))) if name in _OF_LINES else escaped(value)


def _redact_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {
        name: redacted(value)
        if isinstance(value, str) and (name not in _OURS or _is_foreign(event))
        else value
        for name, value in event.items()
    }


def _is_foreign(event: EventDict) -> bool:
    """Whether a library wrote the line, so that its event is a sentence."""
    return not str(event.get("logger")).startswith(("consumer.", "virnucpro_core."))


def _split_librdkafka(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Lines of the Kafka client's library are one event: which facility of which client, and what it says."""
    arguments = event.pop("positional_args", ())
    if event.get("logger") != _LIBRDKAFKA:
        return event
    said = event["event"]
    if isinstance(arguments, tuple) and len(arguments) == 3:  # confluent-kafka's "%s [%s] %s"
        facility, client, said = map(str, arguments)
        event.update(facility=facility, client=client)
    event.update(event=_LIBRDKAFKA, message=without_guesses(_THREAD.sub("", said)))
    return event


def format_in(environment: Mapping[str, str]) -> str:
    """The format that an environment asks for; `auto` where it asks for none that there is."""
    wanted = environment.get("VIRNUCPRO_LOG_FORMAT", "auto")
    return wanted if wanted in FORMATS else "auto"


def is_json(fmt: str) -> bool:
    """Whether lines are JSON in this format, `auto` included."""
    return fmt == "json" or (fmt == "auto" and not sys.stderr.isatty())


def configure(level: str, fmt: str) -> None:
    """Set logging up for this process; calling it again replaces what was set.

    Args:
        level: debug, info, warning or error.
        fmt: console, json, or auto: console when stderr is a terminal.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _split_librdkafka,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
    ]
    console = not is_json(fmt)
    ending: list[Processor] = (
        [
            structlog.processors.format_exc_info,
            _redact_values,
            _escape_values,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
        if console
        else [structlog.processors.format_exc_info, _redact_values, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            pass_foreign_args=True,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    handler.addFilter(Repeats())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.getLevelName(level.upper()), logging.WARNING))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
