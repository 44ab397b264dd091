"""Errors that end a command or the service, and the exit codes that show a supervisor whether a restart can help."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every `virnucpro` command; documented for operators, so a number never changes its meaning."""

    OK = 0
    """Done; after SIGTERM everything that had started was delivered."""

    RUNTIME = 1
    """Something outside the program failed (a broker, file or port); the message names it. Restart once it is fixed."""

    USAGE = 2
    """Wrong arguments or settings: a restart with the same ones cannot help."""

    DEVICE_LOST = 3
    """The GPU is lost to this process; a new process can use it again. No unfinished work was committed."""

    KAFKA_FATAL = 4
    """The Kafka client can no longer be used (fenced, fatal); a new process creates a new client."""


class ServiceError(RuntimeError):
    """The service cannot go on; the message names the cause and the cure in one line."""

    exit_code = ExitCode.RUNTIME


class KafkaFatal(ServiceError):
    """The Kafka client can no longer be used (fenced, or a fatal error of librdkafka): start a new process."""

    exit_code = ExitCode.KAFKA_FATAL
