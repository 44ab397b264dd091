"""Logging to stderr, for people on a terminal and as JSON lines elsewhere.

One way out for all: our own structlog loggers, librdkafka (through the logger in its configuration) and whatever
a library says by `logging`.
"""

from __future__ import annotations

import logging
import re
import sys

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from consumer.clock import Clock, monotonic
from consumer.escaping import escaped
from consumer.throttle import Throttle

# Loggers of libraries that log every request or connection at the level info.
_LIBRDKAFKA = "librdkafka"
_CHATTY = ("httpcore", "httpx", "uvicorn", "urllib3")


class Repeats(logging.Filter):
    """Throttles librdkafka's lines; lines that differ only in their numbers are the same.

    librdkafka logs every attempt to connect: twenty a second for each client while a broker is down.
    """

    def __init__(self, clock: Clock = monotonic) -> None:
        super().__init__()
        self._throttle = Throttle(clock=clock)

    def filter(self, record: logging.LogRecord) -> bool:
        return self._throttle.allows(re.sub(r"\d+", "", record.getMessage()))


def _escape_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """For a terminal: control codes and line breaks in what others wrote (keys, ids, details) as escapes."""
    return {name: _escape(name, value) if isinstance(value, str) else value for name, value in event.items()}


def _escape(name: str, value: str) -> str:
    """A traceback keeps its lines."""
    return "\n".join(map(escaped, value.split("\n"))) if name == "exception" else escaped(value)


def _name_librdkafka(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Lines of the Kafka client's library are one event, with what it wrote as `message`."""
    if event.get("logger") == _LIBRDKAFKA:
        return {**event, "event": _LIBRDKAFKA, "message": event["event"]}
    return event


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
        _name_librdkafka,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
    ]
    console = sys.stderr.isatty() if fmt == "auto" else fmt == "console"
    ending: list[Processor] = (
        [
            structlog.processors.format_exc_info,
            _escape_values,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    librdkafka = logging.getLogger(_LIBRDKAFKA)
    librdkafka.filters[:] = [Repeats()]
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
