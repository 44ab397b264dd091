"""An evaluation report as a table for people at a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from consumer.cli.output.alignment import aligned

_MOST_GROUPS = 20
_BY_LENGTH = {
    "mean of their chunks": "records_by_mean_margin",
    "VirNucPro's verdict": "records_by_verdict",
    "contig rule": "records_by_contig_call",
}
_HEAD = ("", "number", "AUROC", "95% interval", "right", "of viruses", "of others", "ECE")


def evaluation_table(report: dict[str, Any]) -> Iterator[str]:
    """The lines of the table of what `Evaluation.report` gives, with its `model`, and the counts of the command."""
    model, counts = report["model"], report["counts"]
    yield (
        f"model    {model['id']}, {model['expected_length']} bases a chunk; {model['device']}, "
        f"{model['precision']}, attention {model['attention']} ({model['attention_backend']})"
    )
    yield (
        f"records  {counts['records']:,} ({counts['viruses']:,} viruses, {counts['others']:,} others), "
        f"{counts['bases']:,} bases; {counts['records_without_open_frame']:,} have no open frame and no verdict"
    )
    yield (
        f"chunks   {counts['chunks']:,}; {counts['chunks_without_open_frame']:,} "
        f"({_percent(counts['share_without_open_frame'])}) have no open frame and no verdict"
    )
    left_out = {
        "can't be scored": counts["records_refused"],
        "have no label": counts["records_unlabelled"],
    }
    if any(left_out.values()):
        yield "left out " + ", ".join(
            f"{count:,} records that {why}" for why, count in left_out.items() if count
        )
    rows: list[tuple[str, ...]] = [
        _HEAD,
        ("chunks", *_cells(report["chunks"])),
        ("records, mean of their chunks", *_cells(report["records_by_mean_margin"])),
        ("records, VirNucPro's verdict", *_cells(report["records_by_verdict"])),
        ("records, contig rule", *_cells(report["records_by_contig_call"])),
    ]
    for title, name in _BY_LENGTH.items():
        rows += [(), (f"records by bases, {title}",)]
        rows += [(f"  {bin_['bases']}", *_cells(bin_[name])) for bin_ in report["by_length"]]
    groups = report["by_group"]
    if groups:
        largest = sorted(groups.items(), key=lambda item: -item[1]["chunks"])
        more = len(largest) - _MOST_GROUPS
        rows += [(), ("chunks by group, AUROC against the other class",)]
        rows += [
            (f"  {name}", f"{found['chunks']:,}", _number(found["auroc"]), "", _percent(found["right"]))
            for name, found in largest[:_MOST_GROUPS]
        ]
        rows += [(f"  and {more:,} smaller groups: see --report",)] if more > 0 else []
    yield ""
    yield from aligned(rows)
    yield ""
    yield from aligned(list(_call_rows(report["records_by_contig_call"]["calls"])))


def _cells(metrics: dict[str, Any]) -> tuple[str, ...]:
    interval = metrics["interval95"]
    return (
        f"{metrics['count']:,}",
        _number(metrics["auroc"]),
        "-" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}",
        _percent(metrics["accuracy"]),
        _percent(metrics["sensitivity"]),
        _percent(metrics["specificity"]),
        _number(metrics.get("ece")),
    )


def _call_rows(calls: dict[str, dict[str, int]]) -> Iterator[tuple[str, ...]]:
    """How many records of either class the contig rule calls what."""
    yield ("records by the contig rule", *next(iter(calls.values())))
    for label, counted in calls.items():
        yield (f"  {label}", *(f"{count:,}" for count in counted.values()))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
