"""How good a model is on records whose label is known: collects their results, gives the report."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from virnucpro_core.evaluation.labels import Label
from virnucpro_core.evaluation.metrics import (
    BoolArray,
    FloatArray,
    IntArray,
    auroc,
    binary_metrics,
    by_kind,
    calibration,
    curves,
    interval,
    mean_margins,
)
from virnucpro_core.scoring.contig_call import contig_call
from virnucpro_core.scoring.contig_rule import Call, ContigRule
from virnucpro_core.scoring.margins import margin_of
from virnucpro_core.scoring.results import RecordResult

LENGTHS = (500, 1_000, 5_000, 20_000)
"""Bases at which a bin of lengths ends and the next begins."""
NO_GROUP = "no group"
CALLS: tuple[Call, ...] = get_args(Call)
"""Of the contig rule, in the order in which they are counted."""


class Evaluation:
    """Takes scored records one at a time, and keeps a few numbers of each chunk and record.

    Args:
        rule: the contig rule that is measured beside VirNucPro's own.
    """

    def __init__(self, rule: ContigRule | None = None) -> None:
        self._rule = rule or ContigRule()
        self._counts = dict.fromkeys(
            (
                *("records", "viruses", "others", "bases", "records_without_open_frame"),
                *("chunks", "chunks_without_open_frame", "frames"),
            ),
            0,
        )
        # Of each chunk with an open frame:
        self._margins, self._owners = array("d"), array("q")
        # Of each record with an open frame:
        self._by_rule, self._lengths, self._viruses = array("d"), array("q"), array("b")
        self._calls, self._deltas = array("b"), array("d")
        self._groups: list[str] = []

    @property
    def frames(self) -> int:
        """Open frames so far; without any there is no report."""
        return self._counts["frames"]

    def add(self, result: RecordResult, label: Label) -> None:
        """One more record, and what it is known to be."""
        every_frame = [frame for chunk in result.chunks for frame in chunk.frames]
        scored = [chunk for chunk in result.chunks if chunk.frames]
        counts = self._counts
        counts["records"] += 1
        counts["viruses" if label.is_virus else "others"] += 1
        counts["bases"] += result.length
        counts["chunks"] += len(result.chunks)
        counts["chunks_without_open_frame"] += len(result.chunks) - len(scored)
        counts["frames"] += len(every_frame)
        if not every_frame:
            counts["records_without_open_frame"] += 1
            return
        call = contig_call(result, self._rule)
        assert call is not None  # a frame is open
        self._calls.append(CALLS.index(call.call))
        self._deltas.append(call.weighted_delta)
        self._owners.extend([len(self._lengths)] * len(scored))
        self._margins.extend(margin_of(chunk.frames) for chunk in scored)
        self._by_rule.append(margin_of(every_frame))
        self._lengths.append(result.length)
        self._viruses.append(label.is_virus)
        self._groups.append(label.group)

    def report(self) -> dict[str, Any]:
        """All metrics, as JSON takes them: no NaN, None where a metric needs both classes and only one is there.

        Returns:
            `counts`. `chunks`, and `records_by_mean_margin` and `records_by_verdict`: whole records by the mean
            margin of their chunks, and by VirNucPro's verdict over all their frames. `records_by_contig_call`: whole
            records by the contig rule; right is a virus that is called Viral and another that is called Non-viral, so
            what is Ambiguous is not. `by_length`: the records in bins of their length. `by_group`: the chunks by the
            group of their record, None without groups. `curves`: what pictures of the chunks are drawn from.
            `warnings`: lines for people. What has no open frame has no verdict, and is in no figure but `counts`.

        Raises:
            ValueError: no record had an open frame.
        """
        if not self.frames:
            raise ValueError("no record has an open frame")
        margins, owners = np.array(self._margins), np.array(self._owners)
        by_rule, lengths = np.array(self._by_rule), np.array(self._lengths)
        virus = np.array(self._viruses, dtype=bool)
        calls, deltas = np.array(self._calls), np.array(self._deltas)
        by_mean = mean_margins(margins, owners)
        record = np.arange(len(lengths))
        return {
            "counts": self._counts | {"share_without_open_frame": self._share_without()},
            "chunks": _figures(margins, virus[owners], owners),
            "records_by_mean_margin": _figures(by_mean, virus, record),
            "records_by_verdict": _figures(by_rule, virus, record),
            "records_by_contig_call": _call_figures(calls, deltas, virus),
            "by_length": _by_length(
                lengths,
                {
                    "records_by_mean_margin": lambda members: _figures(
                        by_mean[members], virus[members], np.arange(members.sum())
                    ),
                    "records_by_verdict": lambda members: _figures(
                        by_rule[members], virus[members], np.arange(members.sum())
                    ),
                    "records_by_contig_call": lambda members: _call_figures(
                        calls[members], deltas[members], virus[members]
                    ),
                },
            ),
            "by_group": self._by_group(margins, virus[owners], owners),
            "curves": _curves(margins, virus[owners]),
            "warnings": self._warnings(virus),
        }

    def _share_without(self) -> float:
        return round(self._counts["chunks_without_open_frame"] / self._counts["chunks"], 4)

    def _by_group(
        self, margins: FloatArray, positive: BoolArray, owners: npt.NDArray[np.int64]
    ) -> dict[str, Any] | None:
        if not any(self._groups):
            return None
        groups = np.array([group or NO_GROUP for group in self._groups])
        return {
            name: {
                "chunks": found["chunks"],
                "records": found["genomes"],
                "right": found["right"],
                "auroc": None if math.isnan(found["auroc"]) else found["auroc"],
            }
            for name, found in by_kind(margins, positive, owners, groups[owners]).items()
        }

    def _warnings(self, virus: BoolArray) -> list[str]:
        if virus.any() and not virus.all():
            return []
        there, missing = ("viruses", "others") if virus.all() else ("others", "viruses")
        return [
            f"of the records with an open frame all are {there}, none are {missing}: there is no AUROC, and the "
            "share right says half of what a model is worth"
        ]


def _figures(margins: FloatArray, positive: BoolArray, record: npt.NDArray[np.int64]) -> dict[str, Any]:
    """`metrics.figures` in the words of the report; also where only one class is there."""
    counted = {
        "count": len(margins),
        "of_viruses": int(positive.sum()),
        "records": len(np.unique(record)),
    }
    measured = ("auroc", "interval95", "accuracy", "sensitivity", "specificity", "ece")
    if positive.any() and not positive.all():
        found = binary_metrics(margins, positive, record)
        return counted | {name: found[name] for name in measured}
    accuracy = round(float(((margins >= 0) == positive).mean()), 4)
    return (
        counted
        | dict.fromkeys(measured)
        | {
            "accuracy": accuracy,
            "sensitivity" if positive.any() else "specificity": accuracy,
            "ece": calibration(margins, positive)["ece"],
        }
    )


def _call_figures(calls: npt.NDArray[np.int8], deltas: FloatArray, virus: BoolArray) -> dict[str, Any]:
    """How right the calls of the contig rule are, and how many of either class are called what.

    calls int [records], an index of `CALLS`; deltas [records], what the calls are made of; virus bool [records].
    """
    viral, nonviral = calls == CALLS.index("Viral"), calls == CALLS.index("Non-viral")
    right = np.where(virus, viral, nonviral)
    counted = {
        name: {call: int((calls[members] == index).sum()) for index, call in enumerate(CALLS)}
        for name, members in (("viruses", virus), ("others", ~virus))
    }
    record = np.arange(len(calls))
    both = bool(virus.any() and not virus.all())
    return {
        "count": len(calls),
        "of_viruses": int(virus.sum()),
        "auroc": round(auroc(deltas, virus), 4) if both else None,
        "interval95": interval(deltas, virus, record) if both else None,
        "accuracy": _share(right),
        "sensitivity": _share(right[virus]),
        "specificity": _share(right[~virus]),
        "calls": counted,
    }


def _share(right: BoolArray) -> float | None:
    return round(float(right.mean()), 4) if len(right) else None


def _by_length(
    lengths: npt.NDArray[np.int64], figures: Mapping[str, Callable[[BoolArray], dict[str, Any]]]
) -> list[dict[str, Any]]:
    """figures: what each bin has, by name; called with the members of the bin, bool [records]."""
    return [
        {"bases": bases} | {name: figures_of(members) for name, figures_of in figures.items()}
        for bases, members in length_bins(lengths)
    ]


def length_bins(lengths: IntArray) -> Iterator[tuple[str, BoolArray]]:
    """The bins of lengths that have a member: their names, like "1,000 to 4,999", and members, bool [records]."""
    place = np.searchsorted(LENGTHS, lengths, side="right")
    for number in np.unique(place).tolist():
        yield _bin_name(number), place == number


def _bin_name(number: int) -> str:
    if number == 0:
        return f"under {LENGTHS[0]:,}"
    if number == len(LENGTHS):
        return f"{LENGTHS[-1]:,} and more"
    return f"{LENGTHS[number - 1]:,} to {LENGTHS[number] - 1:,}"


def _curves(margins: FloatArray, positive: BoolArray) -> dict[str, Any]:
    """`metrics.curves`, without a ROC curve where only one class is there."""
    with np.errstate(invalid="ignore"):  # the hits of no virus, or the false alarms of no others
        found = curves(margins, positive)
    return found if positive.any() and not positive.all() else found | {"roc": None}
