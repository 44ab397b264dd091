"""The service's metrics, one catalogue: every name, its labels and its meaning.

Prefix `vnp_`, base units, counters end in `_total`. No label holds a key, a record id, an offset or the text of
an error, so the number of series is fixed once the process runs, except that the lag has one for each assigned
partition; all children exist from the start, so that `rate()` works on the first event. The client library's own
collectors for the process, the platform and the garbage collector are beside them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from consumer.clock import Clock, monotonic
from consumer.delivery.answers import Answer
from consumer.delivery.delivery_listener import CommitOutcome
from consumer.ops.events import (
    BrokersChanged,
    Event,
    LagMeasured,
    MessageRead,
    ModelLoaded,
    Rebalanced,
    RecordsSkipped,
    ResultStale,
    RnaPrepared,
    Turned,
)
from consumer.ops.monitor import IntakeState, PipelineState
from consumer.ops.software import versions
from consumer.scoring.batcher import Batch, CloseReason
from consumer.scoring.model import ServedModel
from consumer.stage_times import StageTimes
from consumer.types import Headers, Partition, Refused, Scored
from schemas import Reason, Verdict
from virnucpro_core.evaluation.divergence import Divergence

# A third more series, which say when the process started, and the text format of Prometheus takes for gauges.
disable_created_metrics()  # type: ignore[no-untyped-call]

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
_SINCE_PUBLISHED = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 14_400, 86_400)
_SMALL = tuple(10.0**power for power in range(-8, 1))
_TOKENS = tuple(2**power for power in range(6, 18))
_SHARES = (*(tenths / 10 for tenths in range(1, 10)), 0.95, 1.0)
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_NO_TRACE = b"0" * 32


class Metrics:
    """The metrics of one service, in a separate registry. Events fill it (`consumer.ops.listeners.Listener`); gauges of
    state are read at each scrape.

    Args:
        now: wall clock, seconds since 1970-01-01 UTC.
    """

    def __init__(self, clock: Clock = monotonic, now: Callable[[], float] = time.time) -> None:
        self.registry = CollectorRegistry()
        self._clock, self._now = clock, now
        self._token_budget: int | None = None
        self._flops_per_token: Mapping[str, int] = {}
        self._with_lag: set[Partition] = set()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._info()
        self._traffic()
        self._batches()
        self._state()
        self._lag()
        self._divergence()

    def _info(self) -> None:
        self.build_info = self._gauge(
            "build_info",
            "Always 1; the versions of the software, of Python, of the Kafka client and of torch.",
            *("version", "python", "librdkafka", "torch"),
        )
        found = versions()
        self.build_info.labels(
            found["virnucpro-stream"], found["python"], found["librdkafka"], found.get("torch", "")
        ).set(1)
        self.model_info = self._gauge(
            "model_info",
            "Always 1; the model, the attention path and back-end, and the precision in use.",
            *("model", "sha256", "attention", "attention_backend", "precision", "device"),
        )
        self.backend_refused = self._gauge(
            "attention_backend_refused_info",
            "Always 1; an attention back-end that cannot serve here, and why.",
            *("attention_backend", "reason"),
        )

    def _traffic(self) -> None:
        self.consumed = self._counter("records_consumed_total", "Messages read from the input topic.")
        self.consumed_bytes = self._counter(
            "consumed_bytes_total", "Keys, values and headers of the messages read, in bytes."
        )
        self.skipped = self._counter(
            "records_skipped_total",
            "Offsets of the input topic that were deleted before they were read, by retention or by hand.",
        )
        self.rna_records = self._counter(
            "rna_records_total",
            "Records prepared that hold a U, which is read as T unless VIRNUCPRO_KEEP_U is on.",
        )
        self.records = self._counter(
            "records_total",
            "Messages finished: predicted, dead_lettered (both delivered), or stale (their partition went away "
            "before they were finished, so another member has them).",
            *("outcome",),
        )
        self.predictions = self._counter("predictions_total", "Predictions delivered, by verdict.", "verdict")
        self.dead_letters = self._counter(
            "dead_letters_total", "Dead letters delivered, by reason.", "reason"
        )
        self.chunks = self._counter("chunks_total", "Chunks in the predictions delivered.")
        self.frames = self._counter("frames_total", "Open frames in the predictions delivered.")
        self.tokens = self._counter(
            "tokens_total", "Protein tokens (residues, and two for each frame) in the predictions delivered."
        )
        self.delayed = self._counter(
            "records_delayed_total",
            "Times that a message could not be decoded because a dependency of the codec did not answer; it is tried "
            "again.",
        )
        self.record_seconds = self._histogram(
            "record_seconds", "From reading a message to its answer being in Kafka.", _SECONDS
        )
        self.end_to_end_seconds = self._histogram(
            "end_to_end_seconds",
            "From a message's timestamp, by its producer's clock or the broker's, to its answer being in Kafka.",
            _SINCE_PUBLISHED,
        )
        self.commits = self._counter("commits_total", "Commits of input offsets, by outcome.", "outcome")
        self.last_commit = self._gauge(
            "last_commit_timestamp_seconds",
            "When input offsets were committed last, in seconds since 1970-01-01 UTC; 0 before the first time.",
        )
        self.rebalances = self._counter("rebalances_total", "Changes of the assignment, by event.", "event")
        for outcome in ("predicted", "dead_lettered", "stale"):
            self.records.labels(outcome)
        # Looked up once: for each record that costs as much as counting it.
        self._predicted = self.records.labels("predicted")
        self._by_verdict = {verdict.value: self.predictions.labels(verdict.value) for verdict in Verdict}
        for reason in Reason:
            self.dead_letters.labels(reason.value)
        for outcome in ("ok", "rebalancing", "error", "hung"):
            self.commits.labels(outcome)
        for event in ("assigned", "revoked", "lost"):
            self.rebalances.labels(event)

    def _batches(self) -> None:
        self.batches = self._counter("batches_total", "Batches run, by what closed them.", "closed_by")
        self.batch_tokens = self._histogram("batch_tokens", "Protein tokens in a batch.", _TOKENS)
        self.model_tokens = self._counter(
            "model_tokens_total",
            "Tokens that the model was given to compute, without those of frames that were reused: protein tokens for "
            "ESM-2, nucleotide tokens for DNABERT-S.",
            "encoder",
        )
        self.model_flops = self._counter(
            "model_flops_total",
            "Estimate of the floating-point operations of these tokens: of the matrix products, attention not counted.",
            "encoder",
        )
        self.batch_fill = self._histogram(
            "batch_fill_ratio",
            "Tokens of a batch for the model that has more of them, as a share of the token budget.",
            _SHARES,
        )
        self.batch_seconds = self._histogram("batch_seconds", "Time a batch takes on the device.", _SECONDS)
        self.cache_hits = self._counter(
            "frame_cache_hits_total",
            "Frames that were not computed, since an equal one had been (VIRNUCPRO_FRAME_CACHE).",
        )
        self.batch_failures = self._counter("batch_failures_total", "Runs of the model that failed.", "kind")
        for encoder in ("protein", "nucleotide"):
            self.model_tokens.labels(encoder)
            self.model_flops.labels(encoder)
        for closed_by in get_args(CloseReason):
            self.batches.labels(closed_by)
        for kind in ("error", "out_of_memory"):
            self.batch_failures.labels(kind)

    def _state(self) -> None:
        self.inflight_records = self._gauge("inflight_records", "Messages read and not yet answered.")
        self.inflight_bytes = self._gauge(
            "inflight_bytes", "Bytes that the messages read and not yet answered take in memory."
        )
        self.queued_tokens = self._gauge(
            "queued_tokens", "Protein tokens that wait for a batch, estimated for messages not prepared yet."
        )
        self.queued_bytes = self._gauge(
            "queued_bytes",
            "Bytes in the queues that a backlog fills: values that wait for preparation (inbox), token ids that wait "
            "for a batch (batcher).",
            "queue",
        )
        for queue in ("inbox", "batcher"):
            self.queued_bytes.labels(queue)
        self.thread_seconds = _ThreadSeconds()
        self.registry.register(self.thread_seconds)
        self.delayed_records = self._gauge(
            "delayed_records", "Messages that wait for a dependency of the codec to answer."
        )
        self.oldest_seconds = self._gauge(
            "oldest_inflight_seconds",
            "Age of the message that has been in flight longest; 0 when there is none.",
        )
        self.assigned = self._gauge("assigned_partitions", "Partitions assigned to this process.")
        self.held_partitions = self._gauge(
            "held_partitions",
            "Assigned partitions that are not read because their committed offset is not known.",
        )
        self.paused_partitions = self._gauge(
            "paused_partitions",
            "Assigned partitions that are paused while others are read: they hold their share of a budget, or had it "
            "of a trial of the breaker.",
        )
        self.breaker_open = self._gauge(
            "breaker_open", "1 while nothing is read because most of the latest records failed, else 0."
        )
        self.suspects = self._gauge(
            "suspects",
            "Records that were on the device when an earlier process of this instance died, and have not run since.",
        )
        self.broker_up = self._gauge("broker_up", "1 while a Kafka broker answers, 0 while none does.")
        self.loop_gap = self._histogram(
            "loop_gap_seconds", "From one turn of the loop that owns Kafka to the next.", _SECONDS
        )
        self.backpressure = self._counter(
            "backpressure_seconds_total", "Time in which no more was read, by level (hold, pause).", "level"
        )
        for level in ("hold", "pause"):
            self.backpressure.labels(level)

    def _lag(self) -> None:
        self.lag_records = self._gauge(
            "consumer_lag_records",
            "Offsets from the first message that is not answered to the end of an assigned partition.",
            *("topic", "partition"),
        )
        self.lag_seconds = self._gauge(
            "consumer_lag_seconds",
            "Age of the first message of an assigned partition that is not answered, by its timestamp; 0 when there is "
            "none.",
            *("topic", "partition"),
        )

    def _divergence(self) -> None:
        self.divergence_batches = self._counter(
            "divergence_batches_total",
            "Batches run through the other attention path too (VIRNUCPRO_DIVERGENCE_SAMPLE), by outcome.",
            "outcome",
        )
        self.divergence_frames = self._counter(
            "divergence_frames_total", "Frames compared, by whether both paths call them the same.", "labels"
        )
        self.divergence_cosine = self._histogram(
            "divergence_cosine_distance", "1 - lowest cosine of two features of a compared batch.", _SMALL
        )
        self.divergence_score = self._histogram(
            "divergence_score_difference", "Largest difference of a virus score in a compared batch.", _SMALL
        )
        for outcome in ("compared", "failed"):
            self.divergence_batches.labels(outcome)
        for labels in ("equal", "different"):
            self.divergence_frames.labels(labels)

    def watch(
        self,
        intake: IntakeState,
        pipeline: PipelineState,
        suspects: Callable[[], int],
        times: Sequence[StageTimes] = (),
    ) -> None:
        """From now on each scrape reads what these hold."""
        self.thread_seconds.times = tuple(times)
        self.queued_bytes.labels("inbox").set_function(lambda: pipeline.queued_bytes["inbox"])
        self.queued_bytes.labels("batcher").set_function(lambda: pipeline.queued_bytes["batcher"])
        self.inflight_records.set_function(lambda: intake.records)
        self.inflight_bytes.set_function(lambda: intake.bytes)
        self.queued_tokens.set_function(lambda: pipeline.queued_tokens)
        self.assigned.set_function(lambda: len(intake.assigned))
        self.held_partitions.set_function(lambda: intake.waiting)
        self.paused_partitions.set_function(lambda: len(intake.blocked))
        self.breaker_open.set_function(lambda: intake.is_broken)
        self.suspects.set_function(suspects)
        self.delayed_records.set_function(lambda: pipeline.delayed_records)

    def happened(self, event: Event) -> None:
        match event:
            case MessageRead(message):
                self.consumed.inc()
                self.consumed_bytes.inc(message.payload_bytes)
            case RecordsSkipped(_, first, end):
                self.skipped.inc(end - first)
            case Turned(gap_s, level, oldest_s):
                self.loop_gap.observe(gap_s)
                self.oldest_seconds.set(oldest_s)
                if level != "open":
                    self.backpressure.labels(level).inc(gap_s)
            case ResultStale():
                self.records.labels("stale").inc()
            case LagMeasured(partitions):
                self._forget_lag(self._with_lag - partitions.keys())
                self._with_lag = set(partitions)
                for partition, lag in partitions.items():
                    labels = _labels(partition)
                    self.lag_records.labels(*labels).set(lag.records)
                    self.lag_seconds.labels(*labels).set(lag.seconds)
            case Rebalanced(kind, changed):
                self.rebalances.labels(kind).inc()
                if kind != "assigned":
                    self._forget_lag(self._with_lag & set(changed))
            case RnaPrepared():
                self.rna_records.inc()
            case BrokersChanged(up):
                self.broker_up.set(up)
            case ModelLoaded(model, token_budget):
                self._token_budget = token_budget
                self._describe(model)

    def batch_done(self, batch: Batch, seconds: float) -> None:
        self.batches.labels(batch.closed_by).inc()
        self.batch_tokens.observe(batch.tokens)
        if self._token_budget is not None:
            self.batch_fill.observe(max(batch.tokens, batch.dna_tokens) / self._token_budget)
        self.batch_seconds.observe(seconds)

    def batch_failed(self, kind: str) -> None:
        self.batch_failures.labels(kind).inc()

    def computed(self, protein_tokens: int, nucleotide_tokens: int) -> None:
        for encoder, tokens in (("protein", protein_tokens), ("nucleotide", nucleotide_tokens)):
            self.model_tokens.labels(encoder).inc(tokens)
            self.model_flops.labels(encoder).inc(tokens * self._flops_per_token.get(encoder, 0))

    def frames_reused(self, frames: int) -> None:
        self.cache_hits.inc(frames)

    def record_delayed(self) -> None:
        self.delayed.inc()

    def diverged(self, figures: Divergence | None) -> None:
        """A batch went through both attention paths; None if that failed."""
        if figures is None:
            self.divergence_batches.labels("failed").inc()
            return
        self.divergence_batches.labels("compared").inc()
        equal = round(figures.label_agreement * figures.frames)
        self.divergence_frames.labels("equal").inc(equal)
        self.divergence_frames.labels("different").inc(figures.frames - equal)
        self.divergence_cosine.observe(max(0.0, 1 - figures.cosine_min))
        self.divergence_score.observe(figures.score_difference)

    def delivered(self, answer: Answer) -> None:
        message, trace_id = answer.message, _trace_id(answer.message.headers)
        exemplar = None if trace_id is None else {"trace_id": trace_id}
        self.record_seconds.observe(self._clock() - message.received_at, exemplar)
        if message.timestamp_ms is not None:
            self.end_to_end_seconds.observe(max(0.0, self._now() - message.timestamp_ms / 1000), exemplar)
        match answer.outcome:
            case Scored(result=result, tokens=tokens):
                self._predicted.inc()
                self._by_verdict[result.verdict].inc()
                self.chunks.inc(len(result.chunks))
                self.frames.inc(sum(len(chunk.frames) for chunk in result.chunks))
                self.tokens.inc(tokens)
            case Refused(reason=reason):
                self.records.labels("dead_lettered").inc()
                self.dead_letters.labels(reason.value).inc()

    def committed(self, outcome: CommitOutcome) -> None:
        self.commits.labels(outcome).inc()
        if outcome == "ok":
            self.last_commit.set(self._now())

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics, and the media type of their format.

        Args:
            accept: the request's header. OpenMetrics, which has exemplars, where it asks for that; else Prometheus'
                text.
        """
        try:
            encode, media_type = choose_encoder(accept)
        except (TypeError, ValueError):  # prometheus-client 0.26, on a non-numeric version
            encode, media_type = choose_encoder("")
        return encode(self.registry), media_type

    def _forget_lag(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            self.lag_records.remove(*_labels(partition))
            self.lag_seconds.remove(*_labels(partition))
        self._with_lag -= set(partitions)

    def _describe(self, model: ServedModel) -> None:
        """Show which model runs, and how, and which attention back-ends cannot serve here."""
        info = model.info
        self._flops_per_token = info.flops_per_token
        self.model_info.labels(
            info.model_id,
            info.model_sha256,
            info.attention,
            info.attention_backend,
            info.precision,
            info.device,
        ).set(1)
        for backend, reason in info.refusals.items():
            self.backend_refused.labels(backend, reason).set(1)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"vnp_{name}", meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(f"vnp_{name}", meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"vnp_{name}", meaning, registry=self.registry, buckets=buckets)


class _ThreadSeconds(Collector):
    """Reads what each thread has spent on its stages, at each scrape."""

    _labelnames = ("thread", "stage")

    def __init__(self) -> None:
        self.times: tuple[StageTimes, ...] = ()

    def describe(self) -> Iterable[CounterMetricFamily]:
        """The metric without its series."""
        return [
            CounterMetricFamily(
                "vnp_thread_seconds",
                "Where the time of each thread goes, waiting included: the stages of one add up to its wall time.",
                labels=self._labelnames,
            )
        ]

    def collect(self) -> Iterable[CounterMetricFamily]:
        """The metric now."""
        (family,) = self.describe()
        for times in self.times:
            for stage, seconds in times.seconds().items():
                family.add_metric((times.thread, stage), seconds)
        return [family]


def _labels(partition: Partition) -> tuple[str, str]:
    return partition.topic, str(partition.number)


def _trace_id(headers: Headers) -> str | None:
    """The trace of a message, by its `traceparent` header (W3C Trace Context); None without a valid one."""
    for name, value in headers:
        if name == "traceparent" and value is not None and (match := _TRACEPARENT.fullmatch(value)):
            return None if match[1] == _NO_TRACE else match[1].decode()
    return None
