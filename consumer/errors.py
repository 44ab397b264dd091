"""What ends the service, each with the exit code that tells a supervisor why."""

from __future__ import annotations

from consumer.exit_codes import ExitCode


class ServiceError(RuntimeError):
    """The service cannot go on; the message names the cause and the cure in one line."""

    exit_code = ExitCode.RUNTIME


class KafkaFatal(ServiceError):
    """The Kafka client is beyond repair (fenced, or an error that librdkafka calls fatal): start a new process."""

    exit_code = ExitCode.KAFKA_FATAL
