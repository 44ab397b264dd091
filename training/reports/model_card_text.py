"""The text of the model card's figures, in Markdown: one section a bundle, then the training and the data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.data.corpus import EXTRA
from training.data.prepare_data import name_of
from training.recipe import Recipe
from training.reports.fold_metrics import MEASURES, MOST_PIECES, spread_out
from training.reports.record_scores import RecordScores
from training.reports.whole_records import WholeRecords
from virnucpro_core.bundle.manifest import Manifest
from virnucpro_core.evaluation.evaluator import CALLS, length_bins
from virnucpro_core.evaluation.labels import LABELS
from virnucpro_core.evaluation.metrics import BoolArray, IntArray, binary_metrics, calibration, sigmoid

Row = dict[str, str]
MOST_MISSED = 20  # groups that are named
NONE_STATED = "none stated"
_OF = dict(
    zip(MEASURES, ("all", "viruses whose family is known, and others", "without extra sources"), strict=True)
)
PICTURES = {
    "roc": "the share of viruses found against that of others taken for viruses",
    "calibration": "how often chunks of a score are viruses",
    "scores": "the scores of both classes",
    "by_group": "share right and AUROC of each group",
}
HEAD = f"""\
<!-- Written by python -m training.reports.model_card; what is changed here by hand will be lost. -->

# Figures of the bundled models

The bundled models are trained on all genomes, so nothing is left to measure them on. All figures are of
*cross-validation*: models of the same recipe, each trained without one of the folds, score the records of that
fold. A fold is of whole viral families and whole genera, so **no model had seen the family or genus that it is
measured on**. Chunks are those with an open frame; where not all are counted, it is at most {MOST_PIECES} a record,
evenly spaced. A score is divided by the temperature, as the service does it. Intervals are of 95%, from
resampling families of viruses and genera of the rest. Sensitivity is the share right of viruses, specificity that of
others; ECE is the expected calibration error. What has no open frame gets no verdict and is in no figure."""
RULE = """\
The bundled models are trained on all splits. `validation` is as the manifest has it; `dev` was taken out of the
manifest's training records; `extra` is the further manifest. The folds are of `train`, `dev` and `extra`; of each
genus of `extra` two records judge. A group is a family of viruses, or what stands for one; of others it is a
kingdom or the like."""


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A bundle: its manifest, the sha256 of that, and what cross-validation says of its recipe: the result, the
    scores, and the whole records."""

    manifest: Manifest
    sha256: str
    result: Mapping[str, Any]
    scores: RecordScores
    whole: WholeRecords

    @property
    def unit(self) -> IntArray:
        """The family or genus of each record, as a number."""
        found: IntArray = np.unique(self.scores.units, return_inverse=True)[1]
        return found

    @property
    def is_extra(self) -> BoolArray:
        """Whether each record is of the extra sources."""
        found: BoolArray = np.isin(
            self.scores.ids, self.manifest.training["data"].get(EXTRA, {}).get("ids", "").split()
        )
        return found


def bases(rows: Iterable[Row]) -> int:
    """Lengths of records together."""
    return sum(int(row["length"]) for row in rows)


def source(row: Row) -> tuple[str, str]:
    """The repository that a record is from, and the licence that it states."""
    return row["source_repo"].strip() or NONE_STATED, row["repo_licence"].strip() or NONE_STATED


def table(head: str, rows: Sequence[Sequence[object]]) -> str:
    """A table; `head`: the columns' names, by commas. Columns of numbers are set to the right."""
    names = head.split(", ")
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    rules = ["---:" if any(isinstance(v, int | float) for v in column) else "---" for column in columns]
    lines = [names, rules, *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: object) -> str:
    """A value in a table, a fraction with three digits; what could not be measured is None."""
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")


def metrics_row(name: str, found: Mapping[str, Any]) -> list[object]:
    """A row of what `binary_metrics` gives."""
    ends = found["interval95"]
    interval = None if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
    counts = (found[key] for key in ("pieces", "of_viruses", "genomes"))
    shares = (found[key] for key in ("accuracy", "sensitivity", "specificity", "ece"))
    return [name, *counts, found["auroc"], interval, *shares]


def bundle_section(
    made: Made, by_group: Mapping[str, Any], pictures: Iterable[str], least: int
) -> Iterator[str]:
    """Everything that is known of one bundle.

    by_group: of at most MOST_PIECES chunks a record, see `metrics.by_kind`; pictures: those of `PICTURES` that there
    are; least: chunks of a group that is named as missed.
    """
    name, length, result = made.manifest.id, made.manifest.expected_length, made.result
    yield f"## {name}: chunks of {length} bases"
    yield f"**AUROC of chunks**, at most {MOST_PIECES} a record; the spread is the standard deviation over the folds:"
    folds = range(1, len(result["auroc"]["folds"]) + 1)
    yield table(
        f"of, mean, spread, {', '.join(f'fold {fold}' for fold in folds)}",
        [
            [what, *(result[key][one] for one in ("mean", "spread")), *result[key]["folds"]]
            for key, what in _OF.items()
        ],
    )
    yield "**Share of these chunks that are right**, all folds together, the worst first:"
    own = _without_extra(made)
    yield table(
        "of, right, chunks, records, without extra sources: right, chunks",
        [
            [kind, one["share"], one["pieces"], one["records"], *own.get(kind, ("", ""))]
            for kind, one in sorted(result["right"].items(), key=lambda item: (item[1]["share"], item[0]))
        ],
    )
    yield "**Chunks and whole records**, all folds together:"
    columns = "AUROC, interval, accuracy, sensitivity, specificity, ECE"
    yield table(f"of, count, of viruses, families and genera, {columns}", list(_rows(made)))
    yield (
        f"The temperature is {made.manifest.temperature}. The sha256 of the bundle's manifest.json is "
        f"`{made.sha256}`."
    )
    yield from _by_rule(made)
    yield from _calibration(made)
    groups = [
        [kind, one["chunks"], one["genomes"], one["right"], one["auroc"]]
        for kind, one in sorted(by_group.items(), key=lambda item: (item[1]["right"], item[0]))
        if one["chunks"] >= least
    ]
    yield (
        f"**Families and groups that are missed most**, at most {MOST_PIECES} chunks a record: the "
        f"{min(MOST_MISSED, len(groups))} with the lowest\n"
        f"share right, of {len(groups)} with at least {least} chunks; {len(by_group) - len(groups)} have fewer. The "
        "AUROC is against all chunks of the other class."
    )
    yield table("group, chunks, records, right, AUROC", groups[:MOST_MISSED])
    yield f"**Pictures**, at most {MOST_PIECES} chunks a record:"
    yield "\n".join(f"![{name}: {PICTURES[picture]}]({length}-{picture}.png)" for picture in pictures)


def _without_extra(made: Made) -> dict[str, tuple[float | None, int]]:
    """Of each group that has records of the extra sources, the share right and the chunks of its other records."""
    scores = made.scores
    counted = spread_out(scores.owner)
    record, right = scores.owner[counted], scores.margins[counted] < 0
    found: dict[str, tuple[float | None, int]] = {}
    for group in np.unique(scores.groups[made.is_extra]).tolist():
        own = (scores.groups == group) & ~scores.is_virus & ~made.is_extra
        chunks = own[record]
        found[group] = (float(right[chunks].mean()) if chunks.any() else None, int(chunks.sum()))
    return found


def _rows(made: Made) -> Iterator[list[object]]:
    scores, whole, unit = made.scores, made.whole, made.unit
    found = scores.metrics()
    of_all = binary_metrics(scores.margins, scores.is_virus[scores.owner], unit[scores.owner])
    yield metrics_row(f"chunks, at most {MOST_PIECES} a record", found["chunk"])
    yield metrics_row("chunks, all", of_all)
    yield metrics_row("records, by VirNucPro's rule", found["records_by_verdict_rule"])
    for what, margins in (("the mean margin", whole.mean), ("the calibrated probability", whole.log_odds)):
        yield metrics_row(f"records, by {what}", binary_metrics(margins, scores.is_virus, unit))


def _by_rule(made: Made) -> Iterator[str]:
    whole = made.whole
    low, high = sigmoid(np.array([whole.threshold.min(), whole.threshold.max()]))
    yield (
        "**Whole records by length and rule**: sensitivity and specificity. What the contig rule calls `Ambiguous` is "
        "wrong. The\n"
        "calibrated probability, and its fixed threshold, are fitted on the records of the other folds; the threshold "
        "is the one at\n"
        "which the smaller of both shares is largest, for all lengths together: "
        f"{low:.2f} to {high:.2f}, depending on the fold."
    )
    columns = [f"{rule}: sensitivity, specificity" for rule in whole.right]
    yield table(f"bases, viruses, others, {', '.join(columns)}", rows_by_length(made))
    viruses, others = _called(whole.call[whole.is_virus]), _called(whole.call[~whole.is_virus])
    yield f"By the contig rule, of the viruses {viruses}; of the others {others}."


def _called(calls: npt.NDArray[np.str_]) -> str:
    return ", ".join(f"{int((calls == call).sum()):,} are `{call}`" for call in CALLS)


def rows_by_length(made: Made) -> list[list[object]]:
    """Name of the bin, viruses, others, and sensitivity and specificity of each rule of `WholeRecords.right`."""
    whole, is_extra = made.whole, made.is_extra
    everything = np.ones(len(is_extra), dtype=bool)
    bins = [*length_bins(whole.bases), ("all", everything)]
    if is_extra.any():
        bins.append(("all, without extra sources", ~is_extra))
    found = []
    for name, members in bins:
        labels = [members & whole.is_virus, members & ~whole.is_virus]
        row: list[object] = [name, *(int(label.sum()) for label in labels)]
        for right in whole.right.values():
            row += [float(right[label].mean()) if label.any() else None for label in labels]
        found.append(row)
    return found


def _calibration(made: Made) -> Iterator[str]:
    found = made.manifest.calibration
    assert found is not None  # its scores were compared
    virus = made.whole.is_virus
    alike = np.where(virus, 0.5 / virus.mean(), 0.5 / (~virus).mean())
    yield (
        "**The calibrated probability by length**: ECE by fits that left out a fifth of the families and genera; "
        "beside it that\n"
        "of the mean score. Both labels are weighted alike among pieces of about one length, since a probability "
        "expects half of a\n"
        "sample to be viral. By the fits that left out a whole fold, weighted by label alone, the ECE of whole records "
        f"is {calibration(made.whole.log_odds, virus, alike)['ece']:.3f}.\n"
        f"In the table of chunks and whole records nothing is weighted, and {virus.mean():.0%} are viruses."
    )
    rows = [
        [name, one["pieces"], one["of_viruses"], one["ece"], one["ece_of_scores"]]
        for name, one in found.about["by_length"].items()
    ]
    yield table("piece, count, of viruses, ECE, ECE of the mean score", rows)


def settings(content: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The settings of a recipe by their names with dots."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        found |= settings(value, f"{where}{name}.") if isinstance(value, dict) else {f"{where}{name}": value}
    return found


def training_section(bundles: Sequence[Made]) -> Iterator[str]:
    """What was run, on what, with which settings; the bundles are of one recipe."""
    facts = bundles[0].manifest.training
    recipe = facts["recipe"]
    usual, used = settings(asdict(Recipe.load())), settings(recipe)
    changed = [f"`{name}={value}`" for name, value in used.items() if usual.get(name) != value]
    yield "## The training"
    yield f"    {facts['command']}"
    if changed:
        yield f"with settings that are not those of training/recipe.toml as it is: {', '.join(changed)}."
    else:
        yield "with training/recipe.toml as it is."
    rows = [
        [one.manifest.id, how["finished"], how["hardware"], ", ".join(how["trained_on"]), f"`{how['key']}`"]
        for one in bundles
        for how in [one.manifest.training]
    ]
    yield table("bundle, finished, on, trained on, key: digests of recipe and data", rows)
    yield "All settings, the seeds among them:"
    yield "\n".join(
        f"* {section}: " + ", ".join(f"{name} {value}" for name, value in settings(content).items())
        for section, content in recipe.items()
    )


def data_section(
    data: Mapping[str, Any], splits: Mapping[str, list[Row]], scores: RecordScores
) -> Iterator[str]:
    """The splits, the folds, and where the sequences are from.

    data: what a bundle's manifest says of them; splits: rows of the tables that they were prepared from; scores: of
    cross-validation.
    """
    yield "## The data"
    yield RULE
    columns = "records, bases, groups, genera, records without a genus"
    yield table(f"split, {columns}", list(_split_rows(splits)))
    yield "The sha256 of the sorted record ids, one a line; the ids are in the bundles' manifests:"
    yield "\n".join(f"* {split}: `{data[split]['ids_sha256']}`" for split in splits)
    yield "The folds, by the records with an open frame that judge:"
    yield table("fold, viruses, their families or genera, others, their genera", list(_fold_rows(scores)))
    own = [row for split, rows in splits.items() if split != EXTRA for row in rows]
    yield from _sources("The records of the manifest", own)
    if EXTRA in splits:
        yield from _sources("The records of the extra sources", splits[EXTRA])


def _split_rows(splits: Mapping[str, list[Row]]) -> Iterator[list[object]]:
    for split, of_split in splits.items():
        for label in LABELS:
            rows = [row for row in of_split if row["label"] == label]
            genera = {name_of(row, "genus") for row in rows} - {""}
            nameless = sum(not name_of(row, "genus") for row in rows)
            if rows:
                groups = len({row["group"] for row in rows})
                yield [f"{split}: {label}", len(rows), bases(rows), groups, len(genera), nameless]


def _fold_rows(scores: RecordScores) -> Iterator[list[object]]:
    for fold in np.unique(scores.folds).tolist():
        row: list[object] = [str(fold)]
        for label in (scores.is_virus, ~scores.is_virus):
            members = label & (scores.folds == fold)
            row += [int(members.sum()), len(np.unique(scores.units[members]))]
        yield row


def _sources(what: str, of_all: Sequence[Row]) -> Iterator[str]:
    sources: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in of_all:
        sources[source(row)].append(row)
    free = [row for (_, licence), rows in sources.items() if licence == NONE_STATED for row in rows]
    repositories = {repository for repository, _ in sources}
    yield (
        f"{what} are from {len(repositories)} source repositories, with the licence that each states\n"
        f"for itself. Of {len(free):,} records ({bases(free):,} bases) it is: {NONE_STATED}."
    )
    rows = [[*origin, len(found), bases(found)] for origin, found in sorted(sources.items())]
    yield table("source repository, licence, records, bases", rows)
