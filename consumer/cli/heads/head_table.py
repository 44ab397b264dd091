"""The report of `virnucpro train-head` as a table for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from consumer.cli.output.alignment import aligned
from consumer.cli.output.calibration_table import calibration_table

_LEVELS = {
    "chunks": "chunks",
    "records_by_mean_margin": "records, mean of their chunks",
    "records_by_verdict": "records, VirNucPro's verdict",
}
_HEAD = ("", "AUROC", "95% interval", "right", "of viruses", "of others", "ECE", "raw ECE")


def head_table(name: str, report: dict[str, Any]) -> Iterator[str]:
    """The lines of the report of `consumer.cli.heads.head_job.MadeHead`; `name` is the new bundle's id."""
    split = report["split"]
    held_out = split["held_out"]
    yield f"model        {name}: {report['base']['id']} with another head, temperature {report['temperature']}"
    if "training" in split:
        yield f"trained on   {_counted(split['training'])}"
    yield f"measured on  {_counted(held_out)}: {split['what']}"
    if left_out := _left_out(split):
        yield f"left out     {left_out}"
    yield ""
    yield from aligned(list(_rows(report)))
    if report["compared"]:
        yield ""
        yield from _compared(report["compared"])
    yield ""
    if (why_not := report["calibration"].get("none")) is not None:
        yield f"probability  none: {why_not}"
    else:
        yield from calibration_table(report["calibration"])
    yield ""
    for note in report["notes"]:
        yield f"* {note}"


def _counted(counts: dict[str, int]) -> str:
    viruses, records = counts["viruses"], counts["records"]
    return (
        f"{records:,} records ({viruses:,} viruses, {records - viruses:,} others), {counts['chunks']:,} chunks, "
        f"{counts['frames']:,} frames"
    )


def _left_out(split: dict[str, Any]) -> str:
    counts = {
        "records without a label": split["records_without_label"],
        "labelled records without an open frame": split["labelled_without_open_frame"],
        "labels of no record": split["labels_of_no_record"],
    }
    return ", ".join(f"{what}: {count:,}" for what, count in counts.items() if count)


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    yield _HEAD
    several = len(report["data"]["features"]) > 1
    for level, title in _LEVELS.items():
        yield (title,)
        for found in report["measured"]:
            metrics = found[level]
            where = f", on {found['features']}" if several else ""
            low, high = metrics["interval95"]
            yield (
                f"  {found['head']}{where}",
                f"{metrics['auroc']:.3f}",
                f"{low:.3f} to {high:.3f}",
                *(f"{metrics[name]:.1%}" for name in ("accuracy", "sensitivity", "specificity")),
                f"{metrics['ece']:.3f}",
                f"{metrics['ece_before']:.3f}",
            )


def _compared(pairs: list[dict[str, Any]]) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [("same verdict of", "frames", "chunks", "records", "largest difference")]
    for pair in pairs:
        one, other = pair["one"], pair["other"]
        rows.append(
            (
                f"  {one['head']}, on {one['features']} / {other['head']}, on {other['features']}",
                f"{pair['frames_agree']:.2%}",
                f"{pair['chunks_agree']:.2%}",
                f"{pair['records_by_verdict_agree']:.2%}",
                f"{pair['largest_score_difference']:.2g}",
            )
        )
    yield from aligned(rows)
