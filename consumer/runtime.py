"""Builds the service from its settings, runs it, and takes it down again: the only place that knows all parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from consumer.admission import Admission
from consumer.at_least_once import AtLeastOnce
from consumer.brokers import SETTINGS, BrokerWatch, await_topics, partition_counts, refuse_mock_transactions
from consumer.clock import Deadline
from consumer.delivery import Delivery
from consumer.divergence import DivergenceSampler
from consumer.embedded import EmbeddedBroker
from consumer.errors import ServiceError
from consumer.exactly_once import ExactlyOnce
from consumer.exit_codes import ExitCode
from consumer.health import Health
from consumer.http import HttpServer
from consumer.kafka_config import consumer_config, producer_config
from consumer.ledger import Ledger
from consumer.metrics import Metrics
from consumer.model import load_engine, preparer, provenance
from consumer.outgoing import OutgoingBuilder
from consumer.pipeline import Pipeline, PipelineLimits
from consumer.preparation import Preparation
from consumer.service import Service
from consumer.settings import Settings
from consumer.stopping import StopSignals
from virnucpro_core.models.engine import Engine, EngineInfo
from virnucpro_core.prepare import PreparedFrame

log = structlog.get_logger(__name__)

EMBEDDED_PARTITIONS = 4
_STOP_S = 5.0
_CLOSE_S = 2.0
_WATCHDOG_S = 10.0  # after the drain's own time: for leaving the group, closing transactions, ending threads

Client = TypeVar("Client", Consumer, Producer)
Announce = Callable[[str, str], None]
"""Called once when the service is ready, with its HTTP URL and the bootstrap address of its Kafka."""


def run_service(settings: Settings, announce: Announce) -> ExitCode:
    """Serve until SIGTERM or SIGINT; a second signal ends the process at once.

    Raises:
        ServiceError: the service can't start or can't go on; it holds the exit code.
        CoreError, BundleError, BackendUnavailable, SelfTestFailed: from the model.
    """
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignals(settings.drain_timeout_s + _WATCHDOG_S))
        health, metrics = Health(), Metrics()
        http = stack.enter_context(HttpServer(settings.http_host, settings.http_port, metrics, health))
        bootstrap = settings.kafka_bootstrap_servers
        if settings.embedded:
            topics = dict.fromkeys(_topics(settings), EMBEDDED_PARTITIONS)
            bootstrap = stack.enter_context(EmbeddedBroker(topics)).bootstrap_servers
            log.warning(
                "embedded broker: data is in memory only, the newest 5 MiB of each partition; no transactions",
                bootstrap=bootstrap,
            )
        health.on_ready = lambda: announce(http.url, bootstrap)
        drained = _serve(settings.with_bootstrap(bootstrap), health, metrics, stop, stack)
    log.info("stopped", drained=drained)
    return ExitCode.OK if drained else ExitCode.RUNTIME


def _serve(settings: Settings, health: Health, metrics: Metrics, stop: StopSignals, stack: ExitStack) -> bool:
    watch = BrokerWatch(health)
    producer = _client(Producer, producer_config(settings) | {"error_cb": watch.on_error})
    address, patience = settings.kafka_bootstrap_servers, settings.startup_timeout_s
    counts = await_topics(producer, _topics(settings), address, watch, patience, SETTINGS)
    if settings.delivery == "exactly_once":
        refuse_mock_transactions(producer, address)
    engine = load_engine(settings)
    stamp = provenance(engine.info)
    metrics.describe_model(stamp, engine.info.device, engine.info.refusals)

    ledger = Ledger()
    budget = settings.token_budget or engine.default_token_budget
    pipeline = Pipeline(
        engine,
        Preparation(preparer(engine), settings.max_message_bytes, settings.max_sequence_bases),
        PipelineLimits(
            token_budget=budget,
            max_wait_s=settings.max_wait_ms / 1000,
            prepare_threads=settings.prepare_threads,
            max_records=settings.max_inflight_records,
        ),
        ledger.is_wanted,
        metrics,
        _sampler(engine, settings, metrics),
    )
    stack.callback(lambda: pipeline.stop(Deadline.after(_STOP_S)))
    builder = OutgoingBuilder(settings.output_topic, settings.dlq_topic, settings.group_id, stamp)
    builder.set_partition_counts(counts)

    def on_commit(error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        delivery.on_commit(error, offsets)

    callbacks = {"error_cb": watch.on_error, "on_commit": on_commit}
    consumer = _client(Consumer, consumer_config(settings) | callbacks)
    stack.callback(consumer.close)
    interval = settings.commit_interval_ms / 1000
    guarantee = ExactlyOnce if settings.delivery == "exactly_once" else AtLeastOnce
    delivery: Delivery = guarantee(consumer, producer, ledger, builder, metrics, interval)
    delivery.open(Deadline.after(patience))
    stack.callback(lambda: delivery.close(Deadline.after(_CLOSE_S)))

    def assignment_changed() -> None:
        try:
            builder.set_partition_counts(partition_counts(producer, _topics(settings), 1.0))
        except KafkaException as error:
            log.warning("partition counts not refreshed", error=str(error))

    service = Service(
        consumer,
        settings.input_topic,
        ledger,
        pipeline,
        delivery,
        Admission(settings.max_inflight_records, settings.max_inflight_bytes),
        metrics,
        health,
        assignment_changed,
        partial(watch.probe, producer),
    )
    _tell(engine.info, budget)
    stop.serving()
    return service.run(stop.asked, settings.drain_timeout_s)


def _tell(info: EngineInfo, token_budget: int) -> None:
    """Say once what computes the predictions, and what would come first but cannot serve."""
    for backend, reason in info.refusals.items():
        log.info("attention back-end refused", backend=backend, reason=reason)
    if info.self_test is None:
        log.warning("the self-test is off (VIRNUCPRO_SELF_TEST): nothing has checked the attention path")
    log.info(
        "serving",
        model=info.model_id,
        attention=info.attention,
        attention_backend=info.attention_backend,
        precision=info.precision,
        device=info.device,
        token_budget=token_budget,
        self_test=None if info.self_test is None else f"{info.self_test.per_token:.1e}",
    )


def _sampler(
    engine: Engine, settings: Settings, metrics: Metrics
) -> Callable[[Sequence[PreparedFrame]], None] | None:
    """Compares a share of the batches with the other attention path, if that is asked for."""
    if settings.divergence_sample == 0:
        return None
    other = engine.on_path(v1=engine.info.attention == "packed")
    return DivergenceSampler(engine, other, settings.divergence_sample, metrics.diverged).saw


def _topics(settings: Settings) -> tuple[str, str, str]:
    return settings.input_topic, settings.output_topic, settings.dlq_topic


def _client(kind: type[Client], config: dict[str, Any]) -> Client:
    """A Kafka client; an option that librdkafka refuses becomes one clear line."""
    try:
        return kind(config)
    except KafkaException as error:
        raise ServiceError(f"the Kafka client refuses its options: {error.args[0].str()}") from error
