"""Kafka's errors as rows: what each code means for the service (its kind), and what a person does about it (its cure).

`classify` finds the row of an error. A code without a row is classified by the flags that librdkafka sets on an
error: fatal, retriable, transaction to be aborted. What follows from a kind is the caller's: a guarantee sends an
answer again or aborts, the loop logs or ends the service.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from confluent_kafka import KafkaError

from consumer.errors import KafkaFatal, ServiceError
from consumer.kafka.wording import without_guesses


class Kind(Enum):
    """Classes of errors that are handled alike."""

    RETRIABLE = auto()
    """Transient: the same request may succeed later."""
    TOO_LARGE = auto()
    """About one message, or the batch that it is in: a smaller copy may be accepted."""
    INVALID_RECORD = auto()
    """About one message, or the batch that it is in: a copy with another timestamp may be accepted."""
    PURGED = auto()
    """The message was dropped together with its transaction."""
    REBALANCING = auto()
    """The group is moving partitions; the commit does not count."""
    UNKNOWN_TOPIC = auto()
    """The broker has no such topic."""
    NOT_IN_METADATA = auto()
    """The client has not heard of the topic: a producer gives up, a consumer asks again."""
    UNKNOWN_PARTITION = auto()
    """The client has not heard of the partition: it may have been added since the client last asked."""
    UNAUTHORIZED = auto()
    """The principal lacks a right (ACL)."""
    AUTHENTICATION = auto()
    """The broker rejects the client's credentials."""
    TLS = auto()
    """No TLS connection: certificate, host name or protocol."""
    NO_OFFSET = auto()
    """The group has no committed offset, and auto.offset.reset=error forbids choosing one."""
    FENCED = auto()
    """A newer producer has the same transactional id, or the broker ended a transaction that took too long."""
    NO_TRANSACTION = auto()
    """The broker has no open transaction of this producer, so there is none to end."""
    FATAL = auto()
    """The client cannot be used any more."""
    ABORTABLE = auto()
    """No row; librdkafka says that the transaction must be aborted."""
    UNCLASSIFIED = auto()
    """No row and no flag."""


PER_MESSAGE = frozenset({Kind.TOO_LARGE, Kind.INVALID_RECORD})
"""Rejections that a smaller or re-stamped copy of the message may avoid."""

RESTART = "restart the service"
ENSURE_TOPICS = "virnucpro topics ensure"
"""The command that creates and alters the three topics as the settings ask."""
_SEE_LOG = "see the broker's log"
_CREATE = "create the topic"


@dataclass(frozen=True, slots=True)
class Row:
    """One error code; `cure` is empty where the error passes without a person's help."""

    code: int
    kind: Kind
    cure: str = ""


ROWS = (
    Row(KafkaError._MSG_TIMED_OUT, Kind.RETRIABLE),
    Row(KafkaError._TIMED_OUT, Kind.RETRIABLE),
    Row(KafkaError._TRANSPORT, Kind.RETRIABLE),
    Row(KafkaError._ALL_BROKERS_DOWN, Kind.RETRIABLE),
    # The client drops the messages of a topic that has vanished from its metadata.
    Row(KafkaError._DESTROY, Kind.RETRIABLE),
    Row(KafkaError.REQUEST_TIMED_OUT, Kind.RETRIABLE),
    Row(KafkaError.NOT_ENOUGH_REPLICAS, Kind.RETRIABLE),
    Row(KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND, Kind.RETRIABLE),
    Row(KafkaError.MSG_SIZE_TOO_LARGE, Kind.TOO_LARGE, "raise max.message.bytes of the topic"),
    Row(KafkaError.RECORD_LIST_TOO_LARGE, Kind.TOO_LARGE, "raise segment.bytes of the topic"),
    Row(
        KafkaError.INVALID_TIMESTAMP, Kind.INVALID_RECORD, "raise message.timestamp.after.max.ms of the topic"
    ),
    # Returned for the record of a batch with a refused timestamp, or without a key on a compacted topic.
    Row(
        KafkaError.INVALID_RECORD,
        Kind.INVALID_RECORD,
        "if the topic is compacted it takes no message without a key: set its cleanup.policy to delete",
    ),
    # Returned for the other records in that batch.
    Row(KafkaError._INVALID_DIFFERENT_RECORD, Kind.INVALID_RECORD, _SEE_LOG),
    Row(KafkaError._PURGE_QUEUE, Kind.PURGED),
    Row(KafkaError._PURGE_INFLIGHT, Kind.PURGED),
    Row(KafkaError.ILLEGAL_GENERATION, Kind.REBALANCING),
    Row(KafkaError.REBALANCE_IN_PROGRESS, Kind.REBALANCING),
    Row(KafkaError.UNKNOWN_MEMBER_ID, Kind.REBALANCING),
    Row(KafkaError._NO_OFFSET, Kind.REBALANCING),
    Row(KafkaError.UNKNOWN_TOPIC_OR_PART, Kind.UNKNOWN_TOPIC, _CREATE),
    Row(KafkaError._UNKNOWN_TOPIC, Kind.NOT_IN_METADATA, _CREATE),
    Row(KafkaError._UNKNOWN_PARTITION, Kind.UNKNOWN_PARTITION, "give the topic as many partitions"),
    Row(
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        Kind.UNAUTHORIZED,
        "grant it READ on the group VIRNUCPRO_GROUP_ID",
    ),
    Row(
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        Kind.UNAUTHORIZED,
        "grant it READ on the input topic, WRITE on the output and dead-letter topics",
    ),
    Row(
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        Kind.UNAUTHORIZED,
        "grant it WRITE and DESCRIBE on the transactional ids that begin with VIRNUCPRO_GROUP_ID",
    ),
    Row(
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        Kind.UNAUTHORIZED,
        "grant it IDEMPOTENT_WRITE on the cluster",
    ),
    Row(
        KafkaError._AUTHENTICATION,
        Kind.AUTHENTICATION,
        "check VIRNUCPRO_KAFKA_SASL_MECHANISM and its credentials: VIRNUCPRO_KAFKA_SASL_USERNAME and "
        "..._SASL_PASSWORD, or with OAUTHBEARER VIRNUCPRO_KAFKA_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL, ..._CLIENT_ID and "
        "..._CLIENT_SECRET",
    ),
    Row(
        KafkaError._SSL,
        Kind.TLS,
        "check VIRNUCPRO_KAFKA_SSL_CA_LOCATION and VIRNUCPRO_KAFKA_SECURITY_PROTOCOL",
    ),
    Row(
        KafkaError._AUTO_OFFSET_RESET,
        Kind.NO_OFFSET,
        "commit one for the group, or set VIRNUCPRO_KAFKA_AUTO_OFFSET_RESET to earliest",
    ),
    Row(KafkaError._FENCED, Kind.FENCED, RESTART),
    Row(KafkaError.INVALID_PRODUCER_EPOCH, Kind.FENCED, RESTART),
    Row(KafkaError.INVALID_TXN_STATE, Kind.NO_TRANSACTION, RESTART),
    Row(KafkaError._FATAL, Kind.FATAL, RESTART),
)
_BY_CODE: Mapping[int, Row] = {row.code: row for row in ROWS}

# An alert comes from the other side: the broker refuses the certificate of this client, or misses one. With TLS 1.3 it
# arrives on a connection that is established for the client, which then says only that the transport failed.
_ALERT = re.compile(r"SSL.* alert [a-z ]*(certificate|unknown ca)")
_CERTIFICATE = (
    "the broker asks for a certificate that it trusts: check VIRNUCPRO_KAFKA_SSL_CERTIFICATE_LOCATION and "
    "VIRNUCPRO_KAFKA_SSL_KEY_LOCATION"
)


@dataclass(frozen=True, slots=True)
class Classified:
    """An error with its kind and cure; the three flags are librdkafka's."""

    kind: Kind
    cure: str
    text: str
    name: str
    fatal: bool
    retriable: bool
    requires_abort: bool


def classify(error: KafkaError) -> Classified:
    """The error's row, or what librdkafka's flags say of a code that has none."""
    row = _BY_CODE.get(error.code())
    if row is None:
        row = Row(error.code(), _kind_by_flags(error), RESTART if error.fatal() else _SEE_LOG)
    return Classified(
        kind=row.kind,
        cure=row.cure or _SEE_LOG,
        text=without_guesses(error.str()),
        name=error.name(),
        fatal=error.fatal() or row.kind is Kind.FATAL,
        retriable=error.retriable(),
        requires_abort=error.txn_requires_abort(),
    )


def connection_cure(error: KafkaError) -> str | None:
    """What to do where the error says why no connection is made; other errors only follow from such a one."""
    if _ALERT.search(error.str()):
        return _CERTIFICATE
    problem = classify(error)
    return problem.cure if problem.kind in (Kind.AUTHENTICATION, Kind.TLS) else None


def _kind_by_flags(error: KafkaError) -> Kind:
    if error.fatal():
        return Kind.FATAL
    if error.txn_requires_abort():
        return Kind.ABORTABLE
    return Kind.RETRIABLE if error.retriable() else Kind.UNCLASSIFIED


# ---- one sentence for each way in which an error ends the service ---------------------------------------------------


def fatal_sentence(client: str, problem: Classified, cure: str = RESTART) -> str:
    """What is said when a client cannot be used any more."""
    return f"the Kafka {client} cannot go on ({problem.text}): {cure}"


def fatal_error(client: str, problem: Classified) -> KafkaFatal:
    """The end of a client after a fatal error."""
    return KafkaFatal(fatal_sentence(client, problem))


def fenced_error(problem: Classified) -> KafkaFatal:
    """The end of a transactional producer."""
    return KafkaFatal(
        fatal_sentence(
            "transactional producer",
            problem,
            "another process has its VIRNUCPRO_INSTANCE_ID, or a transaction timed out: restart the service, and give "
            "each process its own VIRNUCPRO_INSTANCE_ID",
        )
    )


def rejected_client(problem: Classified) -> ServiceError:
    """The broker turns this client away: a right is missing, or its credentials are wrong."""
    return ServiceError(f"Kafka refuses this client ({problem.text}): {problem.cure}")


def rejected_message(topic: str, size: int, problem: Classified) -> ServiceError:
    """The broker will never accept this message of `size` bytes."""
    cure = f"{problem.cure} above {size}" if problem.kind is Kind.TOO_LARGE else problem.cure
    return ServiceError(f"the broker refuses a message for topic {topic} ({problem.text}): {cure}")


def consumer_error(error: KafkaError) -> ServiceError | None:
    """The end of the service after an error that `poll` returned; None if it is transient, and librdkafka retries."""
    problem = classify(error)
    if problem.fatal:
        return fatal_error("consumer", problem)
    match problem.kind:
        case Kind.UNAUTHORIZED | Kind.AUTHENTICATION:
            return rejected_client(problem)
        case Kind.NO_OFFSET:
            return ServiceError(f"{problem.text}: {problem.cure}")
        case Kind.UNKNOWN_TOPIC:
            return ServiceError(f"the input topic does not exist any more ({problem.text}): {problem.cure}")
    return None


Caller = Literal["service", "command"]
"""Who connects: the service takes the address and the topics from its settings, a command from its options."""

_NAMES: Mapping[Caller, tuple[str, str]] = {
    "service": (
        "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS",
        "VIRNUCPRO_INPUT_TOPIC, VIRNUCPRO_OUTPUT_TOPIC, VIRNUCPRO_DLQ_TOPIC",
    ),
    "command": ("--bootstrap", "--topic"),
}


def no_broker(bootstrap: str, seconds: float, cause: str, cure: str | None, caller: Caller) -> ServiceError:
    """No broker has answered for so long; `cause` is the client's last error, `cure` what is known to help."""
    address, _ = _NAMES[caller]
    cure = cure or f"check {address} and VIRNUCPRO_KAFKA_SECURITY_PROTOCOL, and that the broker is up"
    return ServiceError(f"no Kafka broker answers at {bootstrap} within {seconds:.0f} s ({cause}): {cure}")


def no_topic(topic: str, bootstrap: str, caller: Caller) -> ServiceError:
    """A topic that is needed is not there at the start."""
    _, topics = _NAMES[caller]
    create = f"create it ({ENSURE_TOPICS})" if caller == "service" else "create it"
    return ServiceError(
        f"the topic {topic} does not exist at {bootstrap}, or this client has no right to see it: "
        f"{create}, grant DESCRIBE, or name another ({topics})"
    )
