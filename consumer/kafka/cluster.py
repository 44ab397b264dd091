"""What the service asks the cluster itself: does a broker answer, do the topics exist, with how many partitions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from consumer.clock import Clock, Deadline, monotonic
from consumer.errors import ServiceError
from consumer.kafka.error_table import Caller, connection_cure, no_broker, no_topic
from consumer.kafka.topic_ids import NoTopicIds, TopicIds
from consumer.kafka.wording import without_guesses
from consumer.throttle import Throttle
from consumer.types import Partition

log = structlog.get_logger(__name__)

_REQUEST_S = 1.0
_PROBE_EVERY_S = 5.0
_TOPICS_EVERY_S = 30.0
_MISSES = 3
_MOCK_CLUSTER = "mockCluster"


class BrokerWatch:
    """Keeps what the clients' error callbacks say; they alone name the cause of a failed connection.

    Args:
        changed: called when no broker answers any more (False), and when one does again (True).
    """

    def __init__(self, changed: Callable[[bool], None] = lambda _: None, clock: Clock = monotonic) -> None:
        self._changed, self._clock = changed, clock
        self._cause: KafkaError | None = None
        self._last: KafkaError | None = None
        self._down = False
        self._probe_at = 0.0
        self._throttle = Throttle(clock=clock)

    def on_error(self, error: KafkaError) -> None:
        """The `error_cb` of every client."""
        # A lost connection is reported many times a second.
        if self._throttle.allows(error.code()):
            log.warning("kafka_client_error", error=without_guesses(error.str()), code=error.name())
        if error.code() == KafkaError._ALL_BROKERS_DOWN:  # says that connections failed, not why
            if not self._down:
                self._down = True
                self._changed(False)
            return
        self._last = error
        if connection_cure(error) is not None:
            self._cause = error

    def why(self) -> str:
        """The last error, the telling ones first, as " (cause): cure"; empty when there was none."""
        cause, cure = self.cause(), self.cure()
        return (f" ({cause})" if cause else "") + (f": {cure}" if cure else "")

    def cause(self) -> str | None:
        """What the last error says, the telling ones first."""
        error = self._cause or self._last
        return None if error is None else without_guesses(error.str())

    def cure(self) -> str | None:
        """What to do about it, where that is known."""
        return None if self._cause is None else connection_cure(self._cause)

    def probe(self, client: Any) -> None:
        """While brokers are down, ask now and then (at most a quarter of a second) whether one is back."""
        if not self._down or self._clock() < self._probe_at:
            return
        self._probe_at = self._clock() + _PROBE_EVERY_S
        try:
            client.list_topics("", timeout=_REQUEST_S / 4)
        except KafkaException:
            return
        self._down = False
        self._changed(True)


class TopicWatch:
    """Looks now and then whether the topics are still there, and with how many partitions.

    A topic that is deleted while the service runs shows to no call of the clients, and to a transaction only as one
    that fails again and again. A broker that has just started may not know its topics yet: one look is not enough.

    Args:
        counted: called with the partition counts of all topics.
    """

    def __init__(
        self,
        client: Any,
        topics: Iterable[str],
        counted: Callable[[Mapping[str, int]], None],
        clock: Clock = monotonic,
    ) -> None:
        self._client, self._topics, self._counted, self._clock = client, tuple(topics), counted, clock
        self._misses = 0
        self._missed_at = -math.inf
        self._next = clock() + _TOPICS_EVERY_S

    def turn(self) -> None:
        """Look when it is time; called in every turn of the loop.

        Raises:
            ServiceError: a topic is gone.
        """
        if self._clock() >= self._next:
            self.look()

    def look(self) -> None:
        """Look now; raises as `turn` does."""
        self._next = self._clock() + _TOPICS_EVERY_S
        try:
            counts = partition_counts(self._client, self._topics, _REQUEST_S / 2)
        except KafkaException as error:
            log.info("partition_counts_not_refreshed", error=str(error))
            return
        missing = [topic for topic in self._topics if topic not in counts]
        if not missing:
            self._misses = 0
            self._counted(counts)
            return
        self._next = self._clock() + _PROBE_EVERY_S
        if self._clock() < self._missed_at + _PROBE_EVERY_S:
            return  # rebalances look too, and may follow each other at once
        self._misses, self._missed_at = self._misses + 1, self._clock()
        if self._misses >= _MISSES:
            raise ServiceError(f"the topic {missing[0]} does not exist any more: create it, and start again")
        log.warning("topic_missing", topic=missing[0])


class Cluster:
    """The brokers and topics of the running service, as its loop looks at them.

    Args:
        admin: the client that asks; its callbacks are served here.
        ids: of the topics that `topics` counts.
    """

    def __init__(
        self, admin: Any, brokers: BrokerWatch, topics: TopicWatch, ids: TopicIds | NoTopicIds
    ) -> None:
        self._admin, self._brokers, self._topics, self._ids = admin, brokers, topics, ids

    @property
    def confirmed_at(self) -> float:
        """Until when the topics were those whose ids are known; see `TopicIds`."""
        return self._ids.confirmed_at

    def made_again(self, busy: bool, urgent: bool) -> list[str]:
        """Topics that were deleted and made again since the last call; never waits. See `TopicIds.turn`."""
        return self._ids.turn(busy, urgent)

    def turn(self) -> None:
        """Ask what is due; called in every turn of the loop, and waits at most half a second.

        Raises:
            ServiceError: a topic does not exist any more.
        """
        self._admin.poll(0)
        self._brokers.probe(self._admin)
        self._topics.turn()

    def refresh(self) -> None:
        """Look at the topics now, since the assignment has changed; raises as `turn` does."""
        self._topics.look()


def await_topics(
    client: Any, topics: Iterable[str], bootstrap: str, watch: BrokerWatch, timeout: float, caller: Caller
) -> dict[str, int]:
    """Partition counts of topics that must exist, asked until a broker answers.

    Args:
        client: any Kafka client with `watch.on_error` as its error callback.
        timeout: seconds.

    Raises:
        ServiceError: no broker answers in time, or a topic doesn't exist.
    """
    deadline = Deadline.after(timeout)
    while True:
        try:
            counts = partition_counts(client, topics, min(_REQUEST_S, max(0.1, deadline.remaining())))
            break
        except KafkaException as error:
            client.poll(0)  # brings the error callback, which knows more
            if deadline.expired:
                cause = watch.cause() or error.args[0].str()
                raise no_broker(bootstrap, timeout, cause, watch.cure(), caller) from error
    for topic in topics:
        if topic not in counts:
            raise no_topic(topic, bootstrap, caller)
    return counts


def refuse_mock_transactions(client: Any, bootstrap: str) -> None:
    """Refuse exactly-once on an embedded broker of another process, which has no transactions.

    Raises:
        ServiceError: the broker is librdkafka's mock cluster, which acknowledges transactions and ignores them; or it
            does not answer any more.
    """
    if is_embedded(client, bootstrap):
        raise ServiceError(
            f"the broker at {bootstrap} is an embedded one, which has no transactions: set "
            "VIRNUCPRO_DELIVERY=at_least_once"
        )


def is_embedded(client: Any, bootstrap: str) -> bool:
    """True if the broker is librdkafka's mock cluster, in this process or another.

    Raises:
        ServiceError: it does not answer any more.
    """
    try:
        cluster = str(client.list_topics("", timeout=_REQUEST_S).cluster_id)
    except KafkaException as error:
        raise ServiceError(
            f"the Kafka broker at {bootstrap} does not answer any more ({error.args[0].str()}): is it up?"
        ) from error
    return cluster.startswith(_MOCK_CLUSTER)


def log_starts(admin: Any, partitions: Sequence[Partition]) -> dict[Partition, int]:
    """The first offset that each partition's log has; one that no broker tells within half a second is left out.

    Args:
        admin: a `confluent_kafka.admin.AdminClient`.
    """
    deadline = Deadline.after(_REQUEST_S / 2)
    wanted = {TopicPartition(*partition): OffsetSpec.earliest() for partition in partitions}
    answers: Mapping[TopicPartition, Future[Any]] = admin.list_offsets(wanted, request_timeout=_REQUEST_S / 2)
    found: dict[Partition, int] = {}
    for asked, answer in answers.items():
        try:
            found[Partition(asked.topic, asked.partition)] = int(answer.result(deadline.remaining()).offset)
        except (KafkaException, TimeoutError) as error:
            log.info("log_start_not_told", partition=asked.partition, error=str(error))
    return found


def partition_counts(client: Any, topics: Iterable[str], timeout: float) -> dict[str, int]:
    """How many partitions each of the topics has; one that doesn't exist is left out.

    Asks for all topics: naming one would create it where the broker creates topics by itself.

    Raises:
        KafkaException: no answer within `timeout` seconds.
    """
    known = client.list_topics(timeout=timeout).topics
    found = {topic: known[topic] for topic in topics if topic in known}
    return {topic: len(entry.partitions) for topic, entry in found.items() if entry.error is None}
