"""Pictures of an evaluation report: PNG files, drawn with matplotlib, which is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from virnucpro_core.atomic_files import atomic_write
from virnucpro_core.new_folder import new_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Report = Mapping[str, Any]

# Okabe and Ito's colours, which people with any colour vision can distinguish; marks differ in shape as well.
VIRUS, OTHERS, THIRD, GREY = "#D55E00", "#0072B2", "#009E73", "#666666"
DPI = 150
MOST_GROUPS = 40
PLOT_FILES = ("roc.png", "calibration.png", "scores.png", "by_length.png", "by_group.png")


def write_plots(report: Report, folder: Path) -> list[Path]:
    """Draw what the report has figures for: roc.png, calibration.png, scores.png, by_length.png, by_group.png.

    Args:
        report: of `model` the `id`, and `curves`, `by_length`, `by_group` as `Evaluation.report` gives
            them; a missing or empty one has no picture.
        folder: is made if it is missing. Either all pictures are written or none. One of these names that was
            there before and is not drawn now is removed, since it would be of another report.

    Returns:
        the files.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: a file cannot be written.
    """
    drawn = dict(
        zip(
            PLOT_FILES,
            (_roc(report), _calibration(report), _scores(report), _by_length(report), _by_group(report)),
            strict=True,
        )
    )
    figures = {folder / name: figure for name, figure in drawn.items() if figure is not None}
    with new_folder(folder), atomic_write(*figures) as written:
        for draft, figure in zip(written, figures.values(), strict=True):
            figure.savefig(draft, format="png", dpi=DPI)
    for name in drawn:
        if folder / name not in figures:
            (folder / name).unlink(missing_ok=True)
    return list(figures)


def _canvas(report: Report, title: str, width: float, height: float) -> tuple[Figure, Axes]:
    """A figure (inches) with one set of axes and a title that names the model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    # Names are of people's own making: a $ in one begins no formula.
    figure.suptitle(f"{title}\nmodel {report['model']['id']}", fontsize=11, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(figure: Figure, columns: int = 1) -> None:
    """Below the axes, where it can hide nothing."""
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def _roc(report: Report) -> Figure | None:
    points = report.get("curves", {}).get("roc")
    if not points:
        return None
    figure, axes = _canvas(report, "Chunks found viral, at every threshold", 5.4, 5.8)
    figures = report.get("chunks")
    area = f"chunks, AUROC {figures['auroc']:.3f}" if figures else "chunks"
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="a guess, AUROC 0.5")
    axes.plot([0, *points["false_alarms"]], [0, *points["hits"]], color=VIRUS, linewidth=2, label=area)
    axes.set(xlabel="share of others taken for viruses", ylabel="share of viruses found")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    _legend(figure)
    return figure


def _calibration(report: Report) -> Figure | None:
    found = report.get("curves", {}).get("calibration")
    if not found:
        return None
    figure, axes = _canvas(report, "Can the scores of chunks be read as probabilities?", 5.4, 6)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="a score that is a probability")
    bins = [bin_ for bin_ in zip(found["said"], found["true"], found["counts"], strict=True) if bin_[2]]
    said, true, counts = zip(*bins, strict=True)
    axes.plot(said, true, color=OTHERS, linewidth=1)
    most = max(counts)
    axes.scatter(
        said,
        true,
        [15 + 150 * count / most for count in counts],
        color=OTHERS,
        label=f"chunks in {len(found['counts'])} bins; the larger, the more (at most {most:,})\n"
        f"expected calibration error {found['ece']:.3f}",
    )
    axes.set(
        xlabel="score of a chunk: probability of a virus, as said", ylabel="share of them that are viruses"
    )
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    _legend(figure)
    return figure


def _scores(report: Report) -> Figure | None:
    found = report.get("curves", {}).get("histogram")
    if not found:
        return None
    figure, axes = _canvas(report, "Scores of the chunks of both classes", 6.4, 4.4)
    for name, colour, hatch in (("others", OTHERS, None), ("virus", VIRUS, "////")):
        total = sum(found[name])
        if total:
            shares = [100 * count / total for count in found[name]]
            axes.stairs(shares, found["edges"], fill=True, color=colour, alpha=0.25)
            label = f"{'viruses' if name == 'virus' else name} ({total:,} chunks)"
            axes.stairs(shares, found["edges"], color=colour, linewidth=1.8, hatch=hatch, label=label)
    axes.axvline(0.5, color=GREY, linestyle=":", label="from here on: virus")
    axes.set(xlabel="score of a chunk (0 others, 1 virus)", ylabel="share of the class's chunks (%)")
    axes.set(xlim=(0, 1))
    _legend(figure, 3)
    return figure


def _by_length(report: Report) -> Figure | None:
    bins = report.get("by_length")
    if not bins:
        return None
    figure, axes = _canvas(report, "Whole records by their length", 6.4, 5)
    mean, rule = ([bin_[name] for bin_ in bins] for name in ("records_by_mean_margin", "records_by_verdict"))
    ranked = [(place, found) for place, found in enumerate(mean) if found["auroc"] is not None]
    if ranked:
        areas = [found["auroc"] for _, found in ranked]
        below = [found["auroc"] - found["interval95"][0] for _, found in ranked]
        above = [found["interval95"][1] - found["auroc"] for _, found in ranked]
        axes.errorbar(
            [place - 0.15 for place, _ in ranked],
            areas,
            # The interval of a few records need not hold their own AUROC.
            [[max(value, 0) for value in below], [max(value, 0) for value in above]],
            fmt="o",
            color=OTHERS,
            capsize=4,
            label="AUROC by the mean of the chunks, 95% interval",
        )
    places = range(len(bins))
    axes.plot(
        places,
        [found["accuracy"] for found in mean],
        "s",
        color=THIRD,
        label="right, by the mean of the chunks",
    )
    axes.plot(
        [place + 0.15 for place in places],
        [found["accuracy"] for found in rule],
        "^",
        color=VIRUS,
        label="right, by VirNucPro's verdict",
    )
    names = [
        f"{bin_['bases']}\n{found['of_viruses']:,} viruses\n{found['count'] - found['of_viruses']:,} others"
        for bin_, found in zip(bins, mean, strict=True)
    ]
    axes.set_xticks(list(places), names, fontsize=9)
    axes.axhline(0.5, color=GREY, linestyle=":", label="AUROC of a guess")
    axes.set(xlabel="length of a record (bases)", ylabel="AUROC, or share right", ylim=(-0.03, 1.03))
    axes.set(xlim=(-0.6, len(bins) - 0.4))
    _legend(figure, 2)
    return figure


def _by_group(report: Report) -> Figure | None:
    groups = report.get("by_group")
    if not groups:
        return None
    largest = sorted(groups.items(), key=lambda item: -item[1]["chunks"])[:MOST_GROUPS]
    largest.sort(key=lambda item: (item[0].endswith("(virus)"), item[1]["right"]))
    some = f", the {len(largest)} largest of {len(groups)}" if len(largest) < len(groups) else ""
    figure, axes = _canvas(report, f"Chunks by group{some}", 7.2, 1.9 + 0.24 * len(largest))
    for virus, colour, name in ((False, OTHERS, "others"), (True, VIRUS, "viruses")):
        places = [place for place, (group, _) in enumerate(largest) if group.endswith("(virus)") == virus]
        if places:
            right = [largest[place][1]["right"] for place in places]
            axes.barh(places, right, height=0.7, color=colour, label=f"share right, {name}")
    ranked = [
        (found["auroc"], place) for place, (_, found) in enumerate(largest) if found["auroc"] is not None
    ]
    if ranked:
        axes.plot(
            *zip(*ranked, strict=True),
            "D",
            color="black",
            markerfacecolor="white",
            markersize=5,
            label="AUROC against the other class",
        )
    names = [f"{shorten(group, 50, placeholder='...')}, {found['chunks']:,}" for group, found in largest]
    axes.set_yticks(range(len(largest)), names, fontsize=9, parse_math=False)
    axes.set_ylim(-0.7, len(largest) - 0.3)
    axes.set(xlabel="share of chunks right, or AUROC", ylabel="group (class), chunks", xlim=(0, 1.02))
    _legend(figure, 3)
    return figure
