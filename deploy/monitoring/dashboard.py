"""Writes the Grafana dashboard: rows by question, a panel a line.

    python deploy/monitoring/dashboard.py            writes deploy/helm/virnucpro-stream/files/dashboard.json
    python deploy/monitoring/dashboard.py --check    fails if that file is not what this program writes

A row asks a question and holds the panels that answer it. A query is one string, or one for each legend. `$S` in a
query stands for the selector of the variables.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "helm/virnucpro-stream/files/dashboard.json"
SELECTOR = 'namespace=~"$namespace", job=~"$job", instance=~"$instance"'
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
ANSWERED = 'outcome=~"predicted|dead_lettered"'
GOOD_AT_ZERO = ((None, "green"), (1, "red"))
GOOD_FROM_ONE = ((None, "red"), (1, "green"))


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        queries: legend -> PromQL, or one query whose legend is the instance.
        unit: Grafana's name of it.
        kind: "timeseries", "stat", "table" or "heatmap".
        width, height: in Grafana's grid of 24 columns.
        steps: (from value, colour) of a stat.
        lowest, highest: ends of the axis.
        stacked: whether the series are stacked.
    """

    title: str
    about: str
    queries: str | Mapping[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    steps: tuple[tuple[float | None, str], ...] = ((None, "green"),)
    lowest: float | None = 0
    highest: float | None = None
    stacked: bool = False


@dataclass(frozen=True)
class Row:
    """A question and the panels that answer it."""

    question: str
    panels: tuple[Panel, ...] = field(default_factory=tuple)


def _stat(
    title: str, about: str, query: str, steps: tuple[tuple[float | None, str], ...], unit: str = "short"
) -> Panel:
    return Panel(title, about, {"": query}, unit, kind="stat", width=4, height=4, steps=steps)


def _quantiles(metric: str) -> dict[str, str]:
    buckets = f"sum by (le) (rate({metric}_bucket{{$S}}[$__rate_interval]))"
    return {f"p{q * 100:.0f}": f"histogram_quantile({q}, {buckets})" for q in (0.5, 0.95, 0.99)}


ROWS = (
    Row(
        "Is it up?",
        (
            _stat("Processes up", "Targets that answer Prometheus.", "sum(up{$S})", GOOD_FROM_ONE),
            _stat("Processes down", "Targets that do not.", "count(up{$S} == 0) or vector(0)", GOOD_AT_ZERO),
            _stat(
                "Without a broker",
                "Processes that reach no Kafka broker.",
                "count(vnp_broker_up{$S} == 0) or vector(0)",
                GOOD_AT_ZERO,
            ),
            _stat(
                "Breaker open",
                "Processes that do not read because most records fail.",
                "sum(vnp_breaker_open{$S})",
                GOOD_AT_ZERO,
            ),
            _stat(
                "Partitions held",
                "Partitions that are not read because their committed offset is not known.",
                "sum(vnp_held_partitions{$S})",
                GOOD_AT_ZERO,
            ),
            _stat(
                "Ways to answer",
                "Combinations of model, attention path and precision. More than one: a change is under way, or stuck.",
                "count(count by (sha256, attention, precision) (vnp_model_info{$S}))",
                ((None, "green"), (2, "orange")),
            ),
            Panel(
                "What runs",
                "Model, attention path, precision and device of each process: how far a change is rolled out.",
                {
                    "": "max by (instance, model, sha256, attention, attention_backend, precision, device)"
                    " (vnp_model_info{$S})"
                },
                kind="table",
                width=16,
            ),
            Panel(
                "Partitions",
                "Partitions of the input topic assigned to each process.",
                "vnp_assigned_partitions{$S}",
                stacked=True,
            ),
        ),
    ),
    Row(
        "Is it behind?",
        (
            Panel(
                "Lag, in time",
                "Age of the oldest record not yet answered, by its timestamp: the worst partition of each process.",
                "max by (instance) (vnp_consumer_lag_seconds{$S})",
                "s",
                width=12,
            ),
            Panel(
                "Lag, in records",
                "Records of the input topic that are not answered yet.",
                "sum by (instance) (vnp_consumer_lag_records{$S})",
                width=12,
                stacked=True,
            ),
            Panel(
                "Read and answered",
                "Records a second. Dropped: of an earlier assignment, another member answers them.",
                {
                    "read": "sum(rate(vnp_records_consumed_total{$S}[$__rate_interval]))",
                    "answered": f"sum(rate(vnp_records_total{{$S, {ANSWERED}}}[$__rate_interval]))",
                    "dropped": 'sum(rate(vnp_records_total{$S, outcome="stale"}[$__rate_interval]))',
                },
                "reqps",
            ),
            Panel(
                "Oldest record in flight",
                "Age of the record that was read first and is not answered yet.",
                "vnp_oldest_inflight_seconds{$S}",
                "s",
            ),
            Panel(
                "Input lost",
                "Offsets that were deleted before they were read.",
                {"offsets": "sum(increase(vnp_records_skipped_total{$S}[$__rate_interval]))"},
            ),
        ),
    ),
    Row(
        "Is it slow?",
        (
            Panel(
                "From reading to answer",
                "Time from reading a message to its answer being in Kafka.",
                _quantiles("vnp_record_seconds"),
                "s",
                width=12,
            ),
            Panel(
                "From publishing to answer",
                "Time from a record's timestamp to its answer being in Kafka: what a reader waits for.",
                _quantiles("vnp_end_to_end_seconds"),
                "s",
                width=12,
            ),
            Panel(
                "From reading to answer, as a heat map",
                "Records by the time that they took.",
                {"{{le}}": "sum by (le) (increase(vnp_record_seconds_bucket{$S}[$__rate_interval]))"},
                "s",
                kind="heatmap",
                width=12,
            ),
            Panel(
                "Tokens",
                "Protein tokens a second in the predictions delivered.",
                "rate(vnp_tokens_total{$S}[$__rate_interval])",
                width=12,
                stacked=True,
            ),
        ),
    ),
    Row(
        "Why?",
        (
            Panel(
                "Device busy",
                "Share of its time in which the device computes. Near 1: it needs more processes. Lower with a "
                "backlog: look at the next panels.",
                "rate(vnp_batch_seconds_sum{$S}[$__rate_interval])",
                "percentunit",
                highest=1,
            ),
            Panel(
                "Operations of the model",
                "Floating-point operations a second, estimated from the tokens computed; attention is not counted. "
                "Divided by the peak of the device for the precision in use it is the model's utilisation of it (MFU).",
                "sum by (instance) (rate(vnp_model_flops_total{$S}[$__rate_interval]))",
                "flops",
                stacked=True,
            ),
            Panel(
                "Frames reused",
                "Frames a second that are not computed, since an equal one had been (VIRNUCPRO_FRAME_CACHE).",
                "rate(vnp_frame_cache_hits_total{$S}[$__rate_interval])",
                "ops",
                stacked=True,
            ),
            Panel("Time of a batch", "On the device.", _quantiles("vnp_batch_seconds"), "s"),
            Panel(
                "What closes a batch",
                "Batches a second. full: the token budget; deadline: a record had waited for VIRNUCPRO_MAX_WAIT_MS.",
                {"{{closed_by}}": "sum by (closed_by) (rate(vnp_batches_total{$S}[$__rate_interval]))"},
                "ops",
                stacked=True,
            ),
            Panel(
                "Fill of a batch",
                "Tokens of a batch as a share of the token budget: the mean, by process.",
                "rate(vnp_batch_fill_ratio_sum{$S}[$__rate_interval])"
                " / rate(vnp_batch_fill_ratio_count{$S}[$__rate_interval])",
                "percentunit",
                highest=1,
            ),
            Panel(
                "Tokens in a batch",
                "The mean, by process.",
                "rate(vnp_batch_tokens_sum{$S}[$__rate_interval]) / rate(vnp_batch_tokens_count{$S}[$__rate_interval])",
            ),
            Panel(
                "Not reading",
                "Share of the time in which nothing is read since enough is in flight, summed. Usual under load.",
                {"{{level}}": "sum by (level) (rate(vnp_backpressure_seconds_total{$S}[$__rate_interval]))"},
                "percentunit",
                stacked=True,
            ),
            Panel(
                "In flight", "Records read and not yet answered.", "vnp_inflight_records{$S}", stacked=True
            ),
            Panel(
                "In flight, in memory",
                "What these records take, with VIRNUCPRO_MAX_INFLIGHT_BYTES as its limit for each process.",
                "vnp_inflight_bytes{$S}",
                "bytes",
                stacked=True,
            ),
            Panel(
                "Tokens that wait",
                "For a batch. None while there is a backlog: preparation is too slow, see VIRNUCPRO_PREPARE_THREADS.",
                "vnp_queued_tokens{$S}",
                stacked=True,
            ),
            Panel(
                "Turn of the main loop",
                "From one turn to the next. A second is usual when there is nothing to read.",
                _quantiles("vnp_loop_gap_seconds"),
                "s",
            ),
            Panel(
                "Commits",
                "Of input offsets, by outcome.",
                {"{{outcome}}": "sum by (outcome) (rate(vnp_commits_total{$S}[$__rate_interval]))"},
                "ops",
            ),
            Panel(
                "Rebalances",
                "Changes of the assignment. lost: the process was silent for longer than its session.",
                {"{{event}}": "sum by (event) (increase(vnp_rebalances_total{$S}[$__rate_interval]))"},
            ),
            Panel(
                "Failed runs of the model",
                "out_of_memory: the batch is halved. error: it is split until the record at fault stands alone.",
                {"{{kind}}": "sum by (kind) (increase(vnp_batch_failures_total{$S}[$__rate_interval]))"},
            ),
        ),
    ),
    Row(
        "What does it refuse?",
        (
            Panel(
                "Dead letters",
                "By reason, a second.",
                {"{{reason}}": "sum by (reason) (rate(vnp_dead_letters_total{$S}[$__rate_interval])) > 0"},
                "ops",
                stacked=True,
            ),
            Panel(
                "Share refused",
                "Dead letters among all answers.",
                {
                    "share": "sum(rate(vnp_dead_letters_total{$S}[$__rate_interval]))"
                    f" / sum(rate(vnp_records_total{{$S, {ANSWERED}}}[$__rate_interval]))"
                },
                "percentunit",
            ),
            Panel(
                "Verdicts",
                "Share of each verdict among the predictions. A step without a change of the input: look at What runs.",
                {
                    "{{verdict}}": "sum by (verdict) (rate(vnp_predictions_total{$S}[$__rate_interval]))"
                    " / ignoring (verdict) group_left () sum(rate(vnp_predictions_total{$S}[$__rate_interval]))"
                },
                "percentunit",
                highest=1,
                stacked=True,
            ),
            Panel(
                "Waiting for a dependency",
                "Messages that cannot be decoded until a dependency of the codec answers; never refused for it.",
                "vnp_delayed_records{$S}",
            ),
            Panel(
                "Suspects",
                "Records that were on the device when a process died, and have not run since.",
                "vnp_suspects{$S}",
            ),
            Panel(
                "Attention paths",
                "Share of the compared frames that both paths call differently (VIRNUCPRO_DIVERGENCE_SAMPLE).",
                {
                    "different": 'sum(rate(vnp_divergence_frames_total{$S, labels="different"}[$__rate_interval]))'
                    " / sum(rate(vnp_divergence_frames_total{$S}[$__rate_interval]))"
                },
                "percentunit",
            ),
        ),
    ),
)


def _targets(panel: Panel) -> list[dict[str, Any]]:
    queries = {"{{instance}}": panel.queries} if isinstance(panel.queries, str) else panel.queries
    form: dict[str, dict[str, Any]] = {
        "table": {"format": "table", "instant": True},
        "heatmap": {"format": "heatmap"},
        "stat": {"instant": True},
    }
    return [
        {
            "datasource": DATASOURCE,
            "expr": query.replace("$S", SELECTOR),
            "legendFormat": legend,
            "refId": chr(ord("A") + number),
            **form.get(panel.kind, {}),
        }
        for number, (legend, query) in enumerate(queries.items())
    ]


def _look(panel: Panel) -> dict[str, Any]:
    """What the kind of a panel needs."""
    steps = [{"value": value, "color": colour} for value, colour in panel.steps]
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    config: dict[str, Any] = {"defaults": defaults, "overrides": []}
    if panel.kind == "stat":
        return {
            "fieldConfig": config,
            "options": {
                "colorMode": "background",
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            },
        }
    if panel.kind == "table":
        hide = {"Time": True, "Value": True}
        return {
            "fieldConfig": config,
            "transformations": [{"id": "organize", "options": {"excludeByName": hide}}],
        }
    if panel.kind == "heatmap":
        return {
            "fieldConfig": {"defaults": {}, "overrides": []},
            "options": {
                "calculate": False,
                "yAxis": {"unit": panel.unit},
                "color": {"mode": "scheme", "scheme": "Blues"},
            },
        }
    defaults["min"] = panel.lowest
    if panel.highest is not None:
        defaults["max"] = panel.highest
    defaults["custom"] = {
        "fillOpacity": 20 if panel.stacked else 0,
        "stacking": {"mode": "normal" if panel.stacked else "none"},
        "showPoints": "never",
    }
    return {
        "fieldConfig": config,
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def _panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    top = 0
    for row in ROWS:
        found.append(
            {
                "id": len(found) + 1,
                "type": "row",
                "title": row.question,
                "collapsed": False,
                "panels": [],
                "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": top},
            }
        )
        top, left, tallest = top + 1, 0, 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                top, left, tallest = top + tallest, 0, 0
            found.append(
                {
                    "id": len(found) + 1,
                    "type": panel.kind,
                    "title": panel.title,
                    "description": panel.about,
                    "datasource": DATASOURCE,
                    "gridPos": {"h": panel.height, "w": panel.width, "x": left, "y": top},
                    "targets": _targets(panel),
                    **_look(panel),
                }
            )
            left, tallest = left + panel.width, max(tallest, panel.height)
        top += tallest
    return found


def _variable(name: str, query: str, everything: str | None = None) -> dict[str, Any]:
    """A variable whose values Prometheus gives; `everything` is the pattern of All, else that of all values."""
    return {
        "name": name,
        "label": name,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "includeAll": True,
        "allValue": everything,
        "multi": True,
        "current": {"text": ["All"], "value": ["$__all"]},
        "refresh": 2,
        "sort": 1,
        "options": [],
        "hide": 0,
    }


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana imports it."""
    return {
        "uid": "virnucpro-stream",
        "title": "virnucpro-stream",
        "description": "VirNucPro's viral sequence predictions as a Kafka service.",
        "tags": ["virnucpro", "kafka"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "timezone": "",
        "links": [],
        "annotations": {"list": []},
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "datasource",
                    "type": "datasource",
                    "query": "prometheus",
                    "current": {},
                    "options": [],
                    "refresh": 1,
                    "regex": "",
                    "hide": 0,
                },
                # Outside Kubernetes the label namespace is missing; this pattern matches that too.
                _variable("namespace", "label_values(vnp_build_info, namespace)", ".*"),
                _variable("job", 'label_values(vnp_build_info{namespace=~"$namespace"}, job)'),
                # One that is down has no vnp_build_info.
                _variable(
                    "instance",
                    'label_values(vnp_build_info{namespace=~"$namespace", job=~"$job"}, instance)',
                    ".*",
                ),
            ]
        },
        "panels": _panels(),
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(None if FILE.read_text() == text() else f"{FILE.name} is out of date: run `make docs`")
    FILE.write_text(text())
