"""What ends a command or the service, and the exit code that tells a supervisor whether a restart can help."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every `virnucpro` command; documented for operators, so a number never changes its meaning."""

    OK = 0
    """Done; after SIGTERM everything in flight was delivered."""

    RUNTIME = 1
    """Something outside refused (a broker, a file, a port): the message says what. Start again once it is repaired."""

    USAGE = 2
    """Wrong arguments or settings: starting again with the same ones can't help."""

    DEVICE_LOST = 3
    """The GPU is gone for this process: a new process can have it again. Nothing was committed that isn't done."""

    KAFKA_FATAL = 4
    """The Kafka client cannot be used any more (fenced, fatal): a new process gets a new one."""


class ServiceError(RuntimeError):
    """The service cannot go on; the message names the cause and the cure in one line."""

    exit_code = ExitCode.RUNTIME


class KafkaFatal(ServiceError):
    """The Kafka client cannot be used any more (fenced, or fatal by librdkafka's word): start a new process."""

    exit_code = ExitCode.KAFKA_FATAL
