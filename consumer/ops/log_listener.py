"""The log as a listener: one line, with a stable name and fields, for each event that a person may have to act on."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from consumer.delivery.answers import Answer
from consumer.delivery.delivery_listener import CommitOutcome
from consumer.ops.events import (
    BrokersChanged,
    ConsumerError,
    Drained,
    Draining,
    Event,
    ModelLoaded,
    ModelLoading,
    Paused,
    Rebalanced,
    RecordsSkipped,
    Resumed,
    TopicRecreated,
)
from consumer.scoring.batcher import Batch
from consumer.types import Partition, Refused

log = structlog.get_logger(__name__)


class LogListener:
    """Keeps `consumer.ops.listeners.Listener`.

    Args:
        each: log single batches and records too, at the level debug. These are thousands a second, so that even a line
            that its level suppresses would cost too much.
    """

    def __init__(self, each: bool = False) -> None:
        self._each = each

    def happened(self, event: Event) -> None:
        match event:
            case ModelLoading(model, device):
                log.info("model_loading", model=model, device=device)
            case ModelLoaded():
                log_startup(event)
            case BrokersChanged(up=True):
                log.info("kafka_brokers_reachable")
            case BrokersChanged():
                log.warning("kafka_brokers_unreachable")
            case ConsumerError(error):
                log.warning("kafka_consumer_error", error=error.str(), code=error.name())
            case Rebalanced("assigned", partitions):
                log.info("partitions_assigned", partitions=_numbers(partitions))
            case Rebalanced("revoked", partitions):
                log.info("partitions_revoked", partitions=_numbers(partitions))
            case Rebalanced("lost", partitions):
                log.info("partitions_lost", partitions=_numbers(partitions))
            case RecordsSkipped(partition, first, end):
                log.warning("records_skipped", partition=partition.number, **{"from": first, "to": end - 1})
            case TopicRecreated(topic, dropped):
                log.warning("topic_recreated", topic=topic, dropped=dropped)
            case Paused(limit, in_flight):
                log.info("paused", reason=limit, **in_flight._asdict())
            case Resumed(in_flight):
                log.info("resumed", **in_flight._asdict())
            case Draining(in_flight):
                log.info("draining", **in_flight._asdict())
            case Drained(complete=False, in_flight=in_flight):
                # What was not committed is read again by the next process.
                log.warning("drain_timed_out", **in_flight._asdict())

    def batch_done(self, batch: Batch, seconds: float) -> None:
        if self._each:
            log.debug("batch_done", tokens=batch.tokens, closed_by=batch.closed_by, seconds=round(seconds, 4))

    def batch_failed(self, kind: str) -> None:
        log.warning("batch_failed", kind=kind)

    def computed(self, protein_tokens: int, nucleotide_tokens: int) -> None:
        """A metric counts them."""

    def frames_reused(self, frames: int) -> None:
        """A metric counts them."""

    def record_delayed(self) -> None:
        """The pipeline logs when a dependency goes and comes back; its records are a gauge."""

    def delivered(self, answer: Answer) -> None:
        if self._each:
            reason = answer.outcome.reason.value if isinstance(answer.outcome, Refused) else None
            log.debug(
                "record_answered",
                source=str(answer.message.source),
                reason=reason,
                truncations=answer.truncations,
            )

    def committed(self, outcome: CommitOutcome) -> None:
        if outcome != "ok":
            log.warning("commit_not_ok", outcome=outcome)


def _numbers(partitions: Sequence[Partition]) -> list[int]:
    return [partition.number for partition in partitions]


def log_startup(loaded: ModelLoaded) -> None:
    """Log what computes the predictions, and which attention back-ends cannot serve here."""
    info = loaded.model.info
    for backend, reason in info.refusals.items():
        log.info("attention_backend_refused", backend=backend, reason=reason)
    if info.self_test is None:
        log.warning("self_test_off", setting="VIRNUCPRO_SELF_TEST")
    log.info(
        "model_loaded",
        model=info.model_id,
        attention=info.attention,
        attention_backend=info.attention_backend,
        kernels=info.kernels,
        precision=info.precision,
        device=info.device,
        token_budget=loaded.token_budget,
        self_test=None if info.self_test is None else f"{info.self_test.per_token:.1e}",
    )
    if info.graphs is not None:
        log.info(
            "cuda_graphs_recorded",
            esm2=list(info.graphs.esm2),
            dnabert_s=list(info.graphs.dnabert_s),
            seconds=round(info.graphs.seconds, 1),
        )
