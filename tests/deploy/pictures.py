"""Draws the dashboard's panels from a real run: a Prometheus scrapes two services, and evaluates every panel's query.

    python -m tests.deploy.pictures docs/dashboard [--seconds 120]

A picture a row of the dashboard. Grafana draws the same queries; what is drawn here is matplotlib's. Two processes with
the bundled model share four partitions of a real Kafka; the bundled sequences come in waves, a record of each wave is
junk, a quarter of the batches goes through the other attention path too; after two thirds of the time one process is
stopped and started again.
Needs Prometheus (`deploy/tools.sh`), Java, Maven and matplotlib.
"""

from __future__ import annotations

import argparse
import itertools
import math
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from benchmarks.delivery import kafka
from deploy.monitoring.dashboard import COLUMNS, ROWS, Panel, Row
from schemas import SequenceRecord, encode_record
from tests.deploy.prometheus import Prometheus, Series
from tests.deploy.tools import ROOT, found
from tests.support.harness import Serve, produce, serving
from tests.support.kafka.job import Job
from virnucpro_core.sequence.fasta import read_sequences

JOB = "virnucpro-stream"
_STEP_S = 2.0
_RATE = "20s"
_WAVE_S = 5.0
_INCH = 0.65
"""Of one column of Grafana's grid."""
_COLOURS = {"green": "#3b9e57", "red": "#c4314b", "orange": "#d98324"}


def expression(query: str) -> str:
    """A panel's query with Grafana's variables filled in."""
    return query.replace("$S", f'namespace=~".*", job="{JOB}", instance=~".*"').replace(
        "$__rate_interval", _RATE
    )


def legend(template: str, labels: dict[str, str]) -> str:
    """The name of a series, by Grafana's template."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), template)


def shown(value: float, unit: str) -> str:
    """A number as a panel shows it."""
    if unit == "percentunit":
        return f"{value:.0%}"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}{unit if unit == 'bytes' else ''}"
    return f"{value:.3g} s" if unit == "s" else f"{value:.3g}"


def colour(panel: Panel, value: float) -> str:
    """By the steps of a panel."""
    reached = [name for limit, name in panel.steps if limit is None or value >= limit]
    return _COLOURS[reached[-1]]


class Drawing:
    """Draws panels of what a Prometheus has seen between two moments (seconds since 1970-01-01 UTC)."""

    def __init__(self, prometheus: Prometheus, begin: float, end: float) -> None:
        self._prometheus, self._begin, self._end = prometheus, begin, end

    def row(self, row: Row, path: Path) -> None:
        """One row of the dashboard as a picture."""
        places: list[tuple[int, int, Panel]] = []
        top = left = tallest = 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                top, left, tallest = top + tallest, 0, 0
            places.append((top, left, panel))
            left, tallest = left + panel.width, max(tallest, panel.height)
        height = top + tallest
        figure = plt.figure(figsize=(COLUMNS * _INCH, height * 0.4 + 0.5), layout="constrained")
        figure.suptitle(row.question, x=0.01, ha="left", fontsize=14, fontweight="bold")
        grid = figure.add_gridspec(height, COLUMNS)
        for top, left, panel in places:
            axes = figure.add_subplot(grid[top : top + panel.height, left : left + panel.width])
            axes.set_title(panel.title, fontsize=10, loc="left")
            self._panel(panel, axes)
        figure.savefig(path, dpi=80)
        plt.close(figure)

    def _panel(self, panel: Panel, axes: Axes) -> None:
        queries = {"{{instance}}": panel.queries} if isinstance(panel.queries, str) else panel.queries
        series = [
            (legend(template, dict(each.labels)), each)
            for template, query in queries.items()
            for each in self._prometheus.series(expression(query), self._begin, self._end, _STEP_S)
        ]
        if panel.kind in ("stat", "table"):
            axes.axis("off")
        if not series:
            axes.text(0.5, 0.5, "no data", ha="center", va="center", color="grey", transform=axes.transAxes)
        elif panel.kind == "stat":
            value = series[-1][1].points[-1][1]
            axes.text(
                0.5,
                0.5,
                shown(value, panel.unit),
                ha="center",
                va="center",
                fontsize=22,
                color="white",
                transform=axes.transAxes,
                bbox={"boxstyle": "round,pad=0.5", "facecolor": colour(panel, value), "edgecolor": "none"},
            )
        elif panel.kind == "table":
            _table(axes, [each for _, each in series])
        elif panel.kind == "heatmap":
            self._heatmap(axes, [each for _, each in series])
        else:
            self._lines(panel, axes, series)

    def _lines(self, panel: Panel, axes: Axes, series: Sequence[tuple[str, Series]]) -> None:
        if panel.stacked:
            at = np.arange(self._begin, self._end + _STEP_S / 2, _STEP_S)
            rows = np.zeros((len(series), len(at)))
            for number, (_, each) in enumerate(series):
                for moment, value in each.points:
                    rows[number, round((moment - self._begin) / _STEP_S)] = 0 if math.isnan(value) else value
            axes.stackplot(
                [each - self._begin for each in at], rows, labels=[name for name, _ in series], alpha=0.6
            )
        else:
            for name, each in series:
                axes.plot(
                    [at - self._begin for at, _ in each.points],
                    [value for _, value in each.points],
                    label=name,
                )
        highest = panel.highest if panel.highest is not None else axes.get_ylim()[1]
        axes.set_ylim(panel.lowest, highest or 1)
        axes.yaxis.set_major_formatter(lambda value, _: shown(value, panel.unit))
        self._frame(axes)
        axes.legend(fontsize=6, loc="upper left", ncols=2)

    def _heatmap(self, axes: Axes, series: Sequence[Series]) -> None:
        """Buckets of Prometheus hold all below; a cell is what is in one alone."""
        by_limit = {float(each.labels["le"]): dict(each.points) for each in series}
        at = sorted(set(itertools.chain.from_iterable(by_limit.values())))
        below = np.array([[by_limit[limit].get(moment, 0.0) for moment in at] for limit in sorted(by_limit)])
        axes.pcolormesh(
            [each - self._begin for each in at],
            range(len(below)),
            np.diff(below, axis=0, prepend=0),
            cmap="Blues",
        )
        labels = [f"{limit:g}" for limit in sorted(by_limit)]
        axes.set_yticks(range(0, len(labels), 3), labels[::3])
        self._frame(axes)

    def _frame(self, axes: Axes) -> None:
        axes.set_xlim(0, self._end - self._begin)
        axes.xaxis.set_major_formatter(lambda at, _: f"{at:.0f} s")
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)


def _table(axes: Axes, series: Sequence[Series]) -> None:
    names = [name for name in series[0].labels if name != "__name__"]
    last = max(each.points[-1][0] for each in series)
    cells = [
        [each.labels.get(name, "")[:12] for name in names] for each in series if each.points[-1][0] == last
    ]
    table = axes.table(cellText=cells, colLabels=names, loc="upper center")
    table.auto_set_font_size(False)
    table.set_fontsize(8)


def file_name(row: Row) -> str:
    """Of the picture of a row: its question in small letters."""
    return "-".join(re.findall(r"[a-z]+", row.question.lower())) + ".png"


def waves(job: Job, seconds: float) -> None:
    """Publish the bundled sequences again and again, more of them in the middle of the time."""
    values = [
        encode_record(SequenceRecord(name, text))
        for name, _, text in read_sequences(str(ROOT / "consumer/data/sample.fasta"))
    ]
    begun = time.monotonic()
    while (elapsed := time.monotonic() - begun) < seconds:
        count = 4 if elapsed < seconds / 3 or elapsed > 2 * seconds / 3 else 20
        number = round(elapsed / _WAVE_S)
        chosen = [values[(number * 7 + each) % len(values)] for each in range(count)]
        messages = [{"value": b"junk" if each % 20 == 3 else value} for each, value in enumerate(chosen)]
        produce(job.bootstrap, messages, f"{job.name}.in")
        time.sleep(max(0.0, begun + (number + 1) * _WAVE_S - time.monotonic()))


def draw(folder: Path, seconds: float) -> None:
    """Run it, and write the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with kafka() as (broker, scratch):
        job = Job.create(broker)
        # The few sequences come again and again: without the cache of frames each is computed.
        variables = {
            "VIRNUCPRO_DIVERGENCE_SAMPLE": "0.25",
            "VIRNUCPRO_FRAME_CACHE": "0",
            "OMP_NUM_THREADS": "1",
        }

        def worker(number: int, log: str) -> Any:
            (scratch / log).mkdir()
            return serving(scratch / log / "log", kind=Serve, **(job.worker(number) | variables))

        with worker(0, "0") as first, worker(1, "1") as second:
            rules = (ROOT / "deploy/monitoring/rules.yaml").read_text()
            targets = {f"gpu-{number}": each.http[7:] for number, each in enumerate((first, second))}
            port = targets["gpu-1"].rpartition(":")[2]
            with Prometheus(scratch / "prometheus", {JOB: targets}, rules) as prometheus:
                begin = time.time()
                waves(job, seconds * 2 / 3)
                second.stop()
                with serving(
                    scratch / "1/again",
                    kind=Serve,
                    **(job.worker(1) | variables | {"VIRNUCPRO_HTTP_PORT": port}),
                ):
                    waves(job, seconds / 3)
                    drawing = Drawing(prometheus, begin + _STEP_S, time.time() - _STEP_S)
                    for row in ROWS:
                        drawing.row(row, folder / file_name(row))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0, help="of the run")
    options = parser.parse_args()
    if found("prometheus") is None:
        sys.exit("no Prometheus here: run deploy/tools.sh (make check-deploy)")
    draw(options.folder, options.seconds)


if __name__ == "__main__":
    main()
