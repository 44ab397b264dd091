"""Builds the service from its settings, runs it, and takes it down again: the only place that knows all parts.

Four functions build, one after the other, and each gives a small bundle of parts: `connect` the Kafka clients,
`build_scoring` the way from message to outcome, `build_delivery` the way from outcome to Kafka (it alone decides on the
guarantee), `build_service` the loop around both. Tests call the same functions with other clients and another clock.
What has to be taken down goes on the `ExitStack` that each is given; it is unwound in the opposite order.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from consumer.clock import Clock, Deadline, monotonic
from consumer.config.clients import asking_config, consumer_config, new_client, producer_config
from consumer.config.settings import ServiceSettings, unambiguous_id
from consumer.config.wanted_topics import wanted_topics
from consumer.delivery.answers import AnswerBuilder
from consumer.delivery.at_least_once import CommitReports
from consumer.delivery.contract import Delivery
from consumer.delivery.guarantee import DeliveryParts, guarantee_for
from consumer.errors import ExitCode, ServiceError
from consumer.intake.backpressure import HOLD_S, Backpressure
from consumer.intake.breaker import Breaker
from consumer.intake.gaps import Gaps
from consumer.intake.intake import Intake
from consumer.intake.isolation import Isolation
from consumer.intake.start_offsets import Ask, StartOffsets
from consumer.kafka.cluster import BrokerWatch, Cluster, TopicWatch, await_topics, is_embedded, log_starts
from consumer.kafka.compaction import refuse_compacted
from consumer.kafka.embedded import EmbeddedBroker
from consumer.kafka.error_table import ENSURE_TOPICS
from consumer.kafka.renewable_admin import RenewableAdmin
from consumer.kafka.renewable_consumer import RenewableConsumer
from consumer.kafka.topic_admin import find_topics
from consumer.kafka.topic_ids import NoTopicIds, TopicIds
from consumer.kafka.topic_plan import differences
from consumer.ledger import Ledger
from consumer.ops.events import BrokersChanged, ModelLoaded, ModelLoading, RecordsSkipped, RnaPrepared
from consumer.ops.http import HttpServer
from consumer.ops.instance import with_own_instance
from consumer.ops.lag import LagReporter
from consumer.ops.listeners import Listener, Listeners
from consumer.ops.log_listener import LogListener
from consumer.ops.metrics import Metrics
from consumer.ops.monitor import Monitor
from consumer.ops.signals import StopSignals
from consumer.ops.watchdog import LoopWatchdog
from consumer.registry.service_codec import open_registry, service_codec
from consumer.scoring.metered import MeteredScorer
from consumer.scoring.model import ModelLoader, ServedModel, provenance
from consumer.scoring.pipeline import Pipeline, PipelineLimits
from consumer.scoring.preparation import Preparation
from consumer.scoring.quarantine import Quarantine
from consumer.service import Service
from consumer.types import Partition, Source
from schemas import Provenance
from schemas.codecs import Codec
from virnucpro_core.scoring.frame_cache import with_cache

if TYPE_CHECKING:
    from consumer.ops.tracing import Tracing

log = structlog.get_logger(__name__)

EMBEDDED_PARTITIONS = 4
PORTS_TRIED = 100
"""From VIRNUCPRO_HTTP_PORT's default on, while that variable is not set."""
BATCHES_WAITING = 4
"""One to run next, and enough that the others fill up."""
_STOP_S = 5.0
_TO_THE_END = ("latest", "largest", "end")  # librdkafka's names for one value of auto.offset.reset
_WATCHDOG_S = 10.0  # after the drain's own time: for leaving the group, closing transactions, ending threads

Announce = Callable[[str, str], None]
"""Called once when the service is ready, with its HTTP URL and the bootstrap address of its Kafka."""


class Telemetry:
    """Metrics, monitor, log and traces, and the one to whom the service reports for all of them.

    Args:
        further: listeners beside these.
        tracing: None while it is off.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        *further: Listener,
        tracing: Tracing | None = None,
        clock: Clock = monotonic,
    ) -> None:
        self.metrics, self.monitor, self.tracing = Metrics(clock), Monitor(settings.masked(), clock), tracing
        traced = () if tracing is None else (tracing,)
        self.listeners = Listeners(
            self.metrics, LogListener(each=settings.log_level == "debug"), self.monitor, *traced, *further
        )


@dataclass(frozen=True, slots=True)
class Clients:
    """The ways to Kafka.

    Attributes:
        admin: asks for metadata. A separate client: on the consumer's connection requests queue behind fetches.
        new_consumer: makes the consumer; it is handed the callback for asynchronous commits.
        new_producer: makes a producer for the configured guarantee.
        committed: fetches the group's committed offsets.
        executor: one thread, on which `committed` runs.
        brokers: hears the errors of all clients.
        partition_counts: of the input, output and dead-letter topics.
        topic_ids: watches whether one of them is made again.
    """

    admin: RenewableAdmin
    new_consumer: Callable[[CommitReports], Consumer]
    new_producer: Callable[[], Producer]
    committed: Ask
    executor: Executor
    brokers: BrokerWatch
    partition_counts: Mapping[str, int]
    topic_ids: Callable[[Clock], TopicIds | NoTopicIds]


@dataclass(frozen=True, slots=True)
class Scoring:
    """From message to outcome.

    Attributes:
        stamp: what every prediction says of the model.
        codec: reads the messages, and writes the answers.
        max_tokens: the most tokens that may wait for the device.
        suspects: counts the records under suspicion.
        runs_alone: whether the message at a place is one of them that runs with nothing else in flight.
    """

    ledger: Ledger
    pipeline: Pipeline
    stamp: Provenance
    codec: Codec
    max_tokens: int
    suspects: Callable[[], int]
    runs_alone: Callable[[Source], bool]


@dataclass(frozen=True, slots=True)
class Outlet:
    """From outcome to Kafka, and the consumer, whose offsets are committed there."""

    consumer: RenewableConsumer
    delivery: Delivery
    builder: AnswerBuilder


def run_service(settings: ServiceSettings, announce: Announce, load_model: ModelLoader) -> ExitCode:
    """Serve until SIGTERM or SIGINT; a second signal ends the process at once.

    Raises:
        ServiceError: the service cannot start or cannot go on; it holds the exit code.
        CoreError, BundleError, BackendUnavailable, SelfTestFailed: from the model.
    """
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignals(settings.drain_timeout_s + _WATCHDOG_S))
        settings = with_own_instance(settings, stack)
        telemetry = Telemetry(settings, tracing=_open_tracing(settings, stack))
        monitor = telemetry.monitor
        tries = 1 if "http_port" in settings.model_fields_set else PORTS_TRIED
        http = stack.enter_context(
            HttpServer(settings.http_host, settings.http_port, telemetry.metrics, monitor, tries)
        )
        bootstrap = settings.kafka_bootstrap_servers
        if settings.embedded:
            topics = dict.fromkeys(_topics(settings), EMBEDDED_PARTITIONS)
            bootstrap = stack.enter_context(EmbeddedBroker(topics)).bootstrap_servers
            # Its data is in memory only, and it has no transactions.
            log.warning("embedded_broker", bootstrap=bootstrap, kept_mib_per_partition=5)
        monitor.on_ready = lambda: announce(http.url, bootstrap)
        drained = _serve(settings.with_bootstrap(bootstrap), load_model, telemetry, stop, stack)
    (log.info if drained else log.warning)("stopped", drained=drained)
    return ExitCode.OK if drained else ExitCode.RUNTIME


def _serve(
    settings: ServiceSettings,
    load_model: ModelLoader,
    telemetry: Telemetry,
    stop: StopSignals,
    stack: ExitStack,
) -> bool:
    listeners = telemetry.listeners
    clients = connect(settings, listeners)
    codec = service_codec(settings, open_registry(settings, stack))
    listeners.happened(ModelLoading(settings.model, settings.device))
    model = load_model(settings, telemetry.metrics.diverged)
    listeners.happened(ModelLoaded(model, _token_budget(settings, model)))
    scoring = build_scoring(settings, model, codec, listeners, stack)
    outlet = build_delivery(settings, clients, scoring, listeners, stack)
    if telemetry.tracing is not None:
        outlet.builder.trace = telemetry.tracing.headers
    service = build_service(settings, clients, scoring, outlet, telemetry)
    _keep_what_is_loaded()
    stop.serving()
    # A drain has its own watchdog.
    with LoopWatchdog(lambda: None if stop.asked() else telemetry.monitor.turns):
        return service.run(settings.input_topic, stop.asked, settings.drain_timeout_s)


def _open_tracing(settings: ServiceSettings, stack: ExitStack) -> Tracing | None:
    """Tracing where the settings ask for it.

    Raises:
        ServiceError: it is not installed, or a variable asks for what there is not.
    """
    if not settings.tracing:
        return None
    try:
        from consumer.ops.tracing import open_tracing
    except ModuleNotFoundError as error:
        raise ServiceError(
            f"VIRNUCPRO_TRACING is refused: OpenTelemetry is not installed ({error.name} is missing): "
            "pip install 'virnucpro-stream[otel]'"
        ) from error
    return open_tracing(settings, stack)


def _keep_what_is_loaded() -> None:
    """Leave what has been loaded out of garbage collections.

    With torch these are 200,000 objects, and looking through them holds up every thread for 0.1 s or more, also the one
    that answers probes.
    """
    gc.collect()
    gc.freeze()


def connect(settings: ServiceSettings, listeners: Listeners) -> Clients:
    """Wait for a broker, and check that it has what the settings ask of it.

    Raises:
        ServiceError: no broker answers in time, a topic does not exist, the broker cannot do what is asked, or a
            topic for answers is compacted.
    """
    brokers = BrokerWatch(lambda up: listeners.happened(BrokersChanged(up)))
    error_cb = {"error_cb": brokers.on_error}
    guarantee = guarantee_for(settings)
    new_admin = partial(new_client, AdminClient, asking_config(settings) | error_cb)
    admin = new_admin()
    address = settings.kafka_bootstrap_servers
    counts = await_topics(admin, _topics(settings), address, brokers, settings.startup_timeout_s, "service")
    guarantee.check_cluster(admin, address)
    # The embedded broker has neither compaction nor an answer to the question.
    embedded = is_embedded(admin, address)
    read, *written = _topics(settings)
    if not embedded:
        answers = {
            settings.output_topic: "VIRNUCPRO_OUTPUT_TOPIC",
            settings.dlq_topic: "VIRNUCPRO_DLQ_TOPIC",
        }
        refuse_compacted(admin, answers)
        _report_differences(settings, admin)
    listeners.happened(BrokersChanged(True))
    asking = RenewableAdmin(admin, new_admin)
    return Clients(
        admin=asking,
        new_consumer=lambda on_commit: new_client(
            Consumer, consumer_config(settings) | error_cb | {"on_commit": on_commit}
        ),
        new_producer=lambda: new_client(
            Producer, producer_config(settings, guarantee.producer_options) | error_cb
        ),
        committed=partial(_committed, settings),
        executor=ThreadPoolExecutor(1, "committed-offsets"),
        brokers=brokers,
        partition_counts=counts,
        topic_ids=lambda clock: NoTopicIds() if embedded else TopicIds(asking, read, written, clock),
    )


def _report_differences(settings: ServiceSettings, admin: AdminClient) -> None:
    """Log how the topics differ from what the settings ask; none of it stops the service.

    Raises:
        ServiceError: the broker does not answer any more.
    """
    wanted = wanted_topics(settings)
    found = find_topics(admin, [topic.name for topic in wanted])
    for difference in differences(wanted, found):
        log.warning(
            "topic_differs",
            topic=difference.topic,
            setting=difference.setting,
            found=difference.found,
            wanted=difference.wanted,
            cure=difference.cure or ENSURE_TOPICS,
        )


def build_scoring(
    settings: ServiceSettings, model: ServedModel, codec: Codec, listeners: Listeners, stack: ExitStack
) -> Scoring:
    """The ledger, and the pipeline with its threads running.

    Raises:
        ServiceError: the state folder cannot be used, or the budget of tokens in flight is less than one batch.
    """
    ledger = Ledger()
    budget = _token_budget(settings, model)
    max_tokens = _max_tokens(settings, budget)
    quarantine = Quarantine(Path(settings.state_dir), unambiguous_id(settings.group_id, settings.instance_id))
    stack.callback(quarantine.close)
    pipeline = Pipeline(
        with_cache(
            MeteredScorer(model.scorer, listeners.computed),
            model.info,
            settings.frame_cache,
            listeners.frames_reused,
        ),
        Preparation(
            codec,
            model.prepare,
            settings.max_message_bytes,
            settings.max_sequence_bases,
            lambda: listeners.happened(RnaPrepared()),
        ),
        PipelineLimits(
            token_budget=budget,
            max_tokens=max_tokens,
            max_wait_s=settings.max_wait_ms / 1000,
            prepare_threads=settings.prepare_threads,
            max_records=settings.max_inflight_records,
        ),
        ledger.is_wanted,
        listeners,
        quarantine,
        model.after_batch,
    )
    stack.callback(lambda: pipeline.stop(Deadline.after(_STOP_S)))
    return Scoring(
        ledger,
        pipeline,
        provenance(model.info),
        codec,
        max_tokens,
        lambda: quarantine.count,
        quarantine.runs_alone,
    )


def build_delivery(
    settings: ServiceSettings,
    clients: Clients,
    scoring: Scoring,
    listeners: Listeners,
    stack: ExitStack,
    clock: Clock = monotonic,
) -> Outlet:
    """The consumer, and the configured guarantee around it, open.

    Raises:
        ServiceError: librdkafka refuses an option, or the broker does not register the transactional id in time.
    """
    builder = AnswerBuilder(
        settings.output_topic, settings.dlq_topic, settings.group_id, scoring.stamp, scoring.codec
    )
    builder.set_partition_counts(clients.partition_counts)
    # It outlives the consumer, whose close still reads committed offsets.
    stack.callback(lambda: clients.executor.shutdown(wait=False, cancel_futures=True))
    reports = CommitReports()
    consumer = RenewableConsumer(partial(clients.new_consumer, reports))
    parts = DeliveryParts(consumer, reports, clients.new_producer, builder, scoring.ledger, listeners, clock)
    return Outlet(consumer, guarantee_for(settings).open(parts, stack), builder)


def build_service(
    settings: ServiceSettings,
    clients: Clients,
    scoring: Scoring,
    outlet: Outlet,
    telemetry: Telemetry,
    clock: Clock = monotonic,
) -> Service:
    """The loop around scoring and delivery."""
    pipeline, delivery, consumer = scoring.pipeline, outlet.delivery, outlet.consumer

    def dropped(partitions: Sequence[Partition]) -> None:
        delivery.forget(partitions)
        pipeline.discard()

    gaps = Gaps(
        partial(log_starts, clients.admin),
        lambda skip: telemetry.listeners.happened(RecordsSkipped(*skip)),
        settings.on_gap,
        to_the_end=settings.kafka.get("auto.offset.reset") in _TO_THE_END,
        clock=clock,
    )
    start_offsets = StartOffsets(consumer, clients.committed, clients.executor.submit, gaps, clock)
    intake = Intake(
        scoring.ledger,
        start_offsets,
        Backpressure(
            settings.max_inflight_records, settings.max_inflight_bytes, scoring.max_tokens, HOLD_S, clock
        ),
        Breaker(settings.breaker_records, settings.breaker_share, settings.breaker_pause_s, clock),
        Isolation(scoring.runs_alone),
        dropped,
        clock,
    )
    topics = TopicWatch(clients.admin, _topics(settings), outlet.builder.set_partition_counts, clock)
    cluster = Cluster(clients.admin, clients.brokers, topics, clients.topic_ids(clock))
    observer = LagReporter(consumer, scoring.ledger, start_offsets.begins_at, telemetry.listeners, clock)
    service = Service(consumer, intake, pipeline, delivery, cluster, observer, clock)
    times = (service.stage_times, *pipeline.stage_times)
    telemetry.metrics.watch(intake, pipeline, scoring.suspects, times)
    telemetry.monitor.watch(intake, pipeline, times)
    return service


def _committed(
    settings: ServiceSettings, partitions: list[TopicPartition], timeout: float
) -> list[TopicPartition]:
    """Ask by a throw-away consumer: assignments are rare, and a long-lived one would have to be polled."""
    client = new_client(Consumer, consumer_config(settings))
    try:
        return client.committed(partitions, timeout=timeout)
    finally:
        client.close()


def _token_budget(settings: ServiceSettings, model: ServedModel) -> int:
    return settings.fixed_token_budget or model.default_token_budget


def _max_tokens(settings: ServiceSettings, token_budget: int) -> int:
    if settings.max_inflight_tokens is None:
        return BATCHES_WAITING * token_budget
    if settings.max_inflight_tokens < token_budget:
        raise ServiceError(
            f"VIRNUCPRO_MAX_INFLIGHT_TOKENS={settings.max_inflight_tokens} is less than one batch, "
            f"{token_budget} tokens: set it to that or more"
        )
    return settings.max_inflight_tokens


def _topics(settings: ServiceSettings) -> tuple[str, str, str]:
    return settings.input_topic, settings.output_topic, settings.dlq_topic
