"""Builds the service from its settings, runs it, and takes it down again: the only place that knows all parts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import structlog
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from consumer.clock import Deadline
from consumer.config.clients import asking_config, consumer_config, new_client, producer_config
from consumer.config.settings import Settings
from consumer.delivery.answers import OutgoingBuilder
from consumer.delivery.at_least_once import AtLeastOnce
from consumer.delivery.contract import Delivery
from consumer.delivery.exactly_once import ExactlyOnce
from consumer.delivery.transactions import Transactions
from consumer.errors import ServiceError
from consumer.exit_codes import ExitCode
from consumer.intake.apart import Apart
from consumer.intake.backpressure import Admission
from consumer.intake.breaker import Breaker
from consumer.intake.start_offsets import Positions
from consumer.kafka.cluster import SETTINGS, BrokerWatch, TopicWatch, await_topics, refuse_mock_transactions
from consumer.kafka.embedded import EmbeddedBroker
from consumer.ledger import Ledger
from consumer.ops.health import Health
from consumer.ops.http import HttpServer
from consumer.ops.metrics import Metrics
from consumer.ops.signals import StopSignals
from consumer.ops.watchdog import LoopWatchdog
from consumer.scoring.model import ModelLoader, ServedModel
from consumer.scoring.pipeline import Pipeline, PipelineLimits
from consumer.scoring.preparation import Preparation
from consumer.scoring.quarantine import Quarantine
from consumer.service import Service

log = structlog.get_logger(__name__)

EMBEDDED_PARTITIONS = 4
_BATCHES_WAITING = 4  # one to run next, and enough that the others fill up
_STOP_S = 5.0
_CLOSE_S = 2.0
_WATCHDOG_S = 10.0  # after the drain's own time: for leaving the group, closing transactions, ending threads

Announce = Callable[[str, str], None]
"""Called once when the service is ready, with its HTTP URL and the bootstrap address of its Kafka."""


def run_service(settings: Settings, announce: Announce, load_model: ModelLoader) -> ExitCode:
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
        drained = _serve(settings.with_bootstrap(bootstrap), load_model, health, metrics, stop, stack)
    log.info("stopped", drained=drained)
    return ExitCode.OK if drained else ExitCode.RUNTIME


def _serve(
    settings: Settings,
    load_model: ModelLoader,
    health: Health,
    metrics: Metrics,
    stop: StopSignals,
    stack: ExitStack,
) -> bool:
    def brokers_changed(up: bool) -> None:
        health.brokers(up)
        metrics.broker_up.set(up)

    watch = BrokerWatch(brokers_changed)

    def new_producer() -> Producer:
        return new_client(Producer, producer_config(settings) | {"error_cb": watch.on_error})

    # A client of its own to ask with: on the consumer's connection a question waits behind a fetch, for longer than
    # the loop can wait for an answer.
    asker = new_client(AdminClient, asking_config(settings) | {"error_cb": watch.on_error})
    counts = _meet_brokers(settings, asker, watch)
    metrics.broker_up.set(1)
    model = load_model(settings, metrics.diverged)
    metrics.describe_model(model.stamp, model.device, model.refusals)

    ledger = Ledger()
    budget = settings.token_budget or model.default_token_budget
    max_tokens = _max_tokens(settings, budget)
    quarantine = Quarantine(Path(settings.state_dir), f"{settings.group_id}.{settings.instance_id}")
    stack.callback(quarantine.close)
    metrics.suspects.set_function(lambda: quarantine.count)
    pipeline = Pipeline(
        model.scorer,
        Preparation(model.prepare, settings.max_message_bytes, settings.max_sequence_bases),
        PipelineLimits(
            token_budget=budget,
            max_tokens=max_tokens,
            max_wait_s=settings.max_wait_ms / 1000,
            prepare_threads=settings.prepare_threads,
            max_records=settings.max_inflight_records,
        ),
        ledger.is_wanted,
        metrics,
        quarantine,
        model.after_batch,
    )
    stack.callback(lambda: pipeline.stop(Deadline.after(_STOP_S)))
    builder = OutgoingBuilder(settings.output_topic, settings.dlq_topic, settings.group_id, model.stamp)
    builder.set_partition_counts(counts)

    def on_commit(error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        delivery.on_commit(error, offsets)

    callbacks = {"error_cb": watch.on_error, "on_commit": on_commit}
    consumer = new_client(Consumer, consumer_config(settings) | callbacks)
    interval = settings.commit_interval_ms / 1000
    delivery: Delivery
    if settings.delivery == "exactly_once":
        transactions = Transactions(new_producer, metrics)
        delivery = ExactlyOnce(consumer, transactions, ledger, builder, metrics, interval)
    else:
        delivery = AtLeastOnce(consumer, new_producer(), ledger, builder, metrics, interval)
    stack.callback(lambda: delivery.close(Deadline.after(_CLOSE_S)))
    aside = ThreadPoolExecutor(1, "positions")
    stack.callback(lambda: aside.shutdown(wait=False, cancel_futures=True))
    positions = Positions(consumer, partial(_committed, settings), aside.submit)
    # Before delivery: what has finished is delivered when the partitions are given up.
    stack.callback(consumer.close)
    delivery.open(Deadline.after(settings.startup_timeout_s))

    topics = TopicWatch(asker, _topics(settings), builder.set_partition_counts)

    def probe() -> None:
        asker.poll(0)
        watch.probe(asker)
        topics.turn()

    service = Service(
        consumer,
        settings.input_topic,
        ledger,
        positions,
        pipeline,
        delivery,
        Admission(settings.max_inflight_records, settings.max_inflight_bytes, max_tokens),
        Breaker(settings.breaker_records, settings.breaker_share, settings.breaker_pause_s),
        metrics,
        health,
        topics.look,
        probe,
        apart=Apart(quarantine.runs_alone),
    )
    _tell(model, budget)
    stop.serving()
    with LoopWatchdog(lambda: None if stop.asked() else health.turns):  # a drain has its own watchdog
        return service.run(stop.asked, settings.drain_timeout_s)


def _committed(settings: Settings, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
    """By a client of its own, made for the question: assignments are rare, and one that is kept has to be polled."""
    client = new_client(Consumer, consumer_config(settings))
    try:
        return client.committed(partitions, timeout=timeout)
    finally:
        client.close()


def _meet_brokers(settings: Settings, client: AdminClient, watch: BrokerWatch) -> dict[str, int]:
    """Wait for a broker, and look whether it can do what is asked of it; gives the partition counts of the topics."""
    address = settings.kafka_bootstrap_servers
    counts = await_topics(client, _topics(settings), address, watch, settings.startup_timeout_s, SETTINGS)
    if settings.delivery == "exactly_once":
        refuse_mock_transactions(client, address)
    return counts


def _max_tokens(settings: Settings, token_budget: int) -> int:
    if settings.max_inflight_tokens is None:
        return _BATCHES_WAITING * token_budget
    if settings.max_inflight_tokens < token_budget:
        raise ServiceError(
            f"VIRNUCPRO_MAX_INFLIGHT_TOKENS={settings.max_inflight_tokens} is less than one batch, "
            f"{token_budget} tokens: set it to that or more"
        )
    return settings.max_inflight_tokens


def _tell(model: ServedModel, token_budget: int) -> None:
    """Say once what computes the predictions, and what would come first but cannot serve."""
    for backend, reason in model.refusals.items():
        log.info("attention back-end refused", backend=backend, reason=reason)
    if model.self_test is None:
        log.warning("the self-test is off (VIRNUCPRO_SELF_TEST): nothing has checked the attention path")
    log.info(
        "serving",
        model=model.stamp.model_id,
        attention=model.stamp.attention,
        attention_backend=model.stamp.attention_backend,
        precision=model.stamp.precision,
        device=model.device,
        token_budget=token_budget,
        self_test=None if model.self_test is None else f"{model.self_test:.1e}",
    )


def _topics(settings: Settings) -> tuple[str, str, str]:
    return settings.input_topic, settings.output_topic, settings.dlq_topic
