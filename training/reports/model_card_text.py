"""The text of the model card's figures, in Markdown: one section a bundle, then the training and the data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from training.data.corpus import SPLITS, VALIDATION
from training.data.prepare_data import name_of
from training.recipe import Recipe
from virnucpro_core.bundle.manifest import Manifest
from virnucpro_core.evaluation.labels import LABELS

Row = dict[str, str]
MOST_MISSED = 20  # groups that are named
NONE_STATED = "none stated"
LEVELS = {
    "chunk": "chunks",
    "pieces_of_5kb": "5 kb pieces",
    "records": "records, by mean margin",
    "records_by_verdict_rule": "records, by verdict rule",
}
PICTURES = {
    "roc": "the share of viruses found against that of others taken for viruses",
    "calibration": "how often chunks of a score are viruses",
    "scores": "the scores of both classes",
    "by_group": "share right and AUROC of each group",
}
HEAD = """\
<!-- Written by python -m training.reports.model_card; what is changed here by hand will be lost. -->

# Figures of the bundled models

Of the *validation* split, measured when the bundles were written: through the service's own engine, with the
stored weights and the temperature. The headline is of **unseen genera**: it leaves out each record of whose
genus or species a record was trained on, or may have been. Intervals are of 95%, from resampling genomes.
Sensitivity is the share right of viruses, specificity that of others, at a score of 0.5; ECE is the expected
calibration error. What has no open frame gets no verdict and is in no figure but the count of such chunks."""
RULE = """\
The split is by record, never by chunk. `validation` is as the manifest has it; `dev` was taken out of the
manifest's training records: whole families of viruses, whole genera of the rest. The trial models, by whose
figures on `dev` recipes are compared and the temperature is set, are trained on `train` alone; the bundled
ones on `train` and `dev`. A group is a family of viruses, or what stands for one; of others it is a kingdom or
the like. *New* are those of which no split above has a record."""


@dataclass(frozen=True, slots=True)
class Made:
    """A bundle: its manifest, the sha256 of that, and the whole report on it."""

    manifest: Manifest
    sha256: str
    report: Mapping[str, Any]


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
    """A row of the main tables, of what `virnucpro_core.evaluation.metrics.figures` gives."""
    ends = found["interval95"]
    interval = None if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
    counts = (found[key] for key in ("pieces", "of_viruses", "genomes"))
    shares = (found[key] for key in ("accuracy", "sensitivity", "specificity", "ece"))
    return [name, *counts, found["auroc"], interval, *shares]


def kind_rows(report: Mapping[str, Any], kind: str, least: int = 0) -> list[list[object]]:
    """Rows of by_novelty or by_group of at least the given number of chunks, the worst first, beside the baseline's."""
    found = [(name, one) for name, one in report["chunk"][kind].items() if one["chunks"] >= least]
    rows = []
    for name, one in sorted(found, key=lambda item: (item[1]["right"], item[0])):
        base = report["baseline"]["chunk"][kind][name]
        shown = f"{NONE_STATED}{name}" if name.startswith(" (") else name
        own = [one[key] for key in ("chunks", "genomes", "right", "auroc")]
        rows.append([shown, *own, base["right"], base["auroc"]])
    return rows


def bundle_section(made: Made, pictures: Iterable[str], least: int) -> Iterator[str]:
    """Everything that was measured of one bundle.

    pictures: those of `PICTURES` that there are; least: chunks of a group that is named as missed.
    """
    report, base, name = made.report, made.report["baseline"], made.manifest.id
    length, without = report["length"], report["chunks_without_open_frame"]
    yield f"## {name}: chunks of {length} bases"
    head = "of, count, of viruses, genomes, AUROC, interval, accuracy, sensitivity, specificity, ECE"
    for scope, title in (
        ("unseen_genera", "Unseen genera (the headline)"),
        ("all", "All validation records"),
    ):
        rows = []
        for level, what in LEVELS.items():
            rows.append(metrics_row(what, report[level][scope]))
            if level in base:
                rows.append(metrics_row(f"{what}: baseline", base[level][scope]))
        yield f"**{title}**"
        yield table(head, rows)
    yield (
        f"The baseline is {base['what']}, trained on {base['training_chunks']:,} chunks of "
        f"{' and '.join(report['trained_on'])}, and measured on the same chunks.\n"
        f"{without:,} of {without + report['chunks']:,} chunks of all validation records "
        f"({report['share_without_open_frame']:.1%}) have no open frame.\n"
        f"The temperature is {report['temperature']}.\n"
        f"Measured in {report['precision']} on {report['device']}.\n"
        f"The sha256 of the bundle's manifest.json is `{made.sha256}`."
    )
    columns = "chunks, genomes, right, AUROC, baseline's right, baseline's AUROC"
    yield (
        "**By how new they are**, in the manifest's words: chunks of all validation records, the worst\n"
        "first. The AUROC is against all chunks of the other class."
    )
    yield table(f"novelty, {columns}", kind_rows(report, "by_novelty"))
    total, groups = len(report["chunk"]["by_group"]), kind_rows(report, "by_group", least)
    yield (
        f"**Groups that it misses most**, likewise: the {min(MOST_MISSED, len(groups))} with the lowest\n"
        f"share of chunks right, of {len(groups)} with at least {least} chunks; {total - len(groups)} have fewer."
    )
    yield table(f"group, {columns}", groups[:MOST_MISSED])
    yield "**Pictures**, of chunks of all validation records:"
    yield "\n".join(f"![{name}: {PICTURES[picture]}]({length}-{picture}.png)" for picture in pictures)


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
    rows = []
    for one in bundles:
        how = one.manifest.training
        on_dev = how["trial_on_dev"]["model"]["dev"]
        rows.append([one.manifest.id, how["finished"], how["hardware"], on_dev, f"`{how['key']}`"])
    yield table("bundle, finished, on, AUROC of the trial on dev, key: digests of recipe and data", rows)
    yield "All settings, the seeds among them:"
    yield "\n".join(
        f"* {section}: " + ", ".join(f"{name} {value}" for name, value in settings(content).items())
        for section, content in recipe.items()
    )


def split_rows(splits: Mapping[str, list[Row]]) -> Iterator[list[object]]:
    """For each split and label: records, bases, groups, genera, and how many of these no split above has."""
    old_groups: set[str] = set()
    old_genera: set[str] = set()
    for split in SPLITS:
        for label in LABELS:
            rows = [row for row in splits[split] if row["label"] == label]
            groups = {row["group"] for row in rows}
            genera = {name_of(row, "genus") for row in rows} - {""}
            nameless = sum(not name_of(row, "genus") for row in rows)
            counts = [len(groups), len(groups - old_groups), len(genera), len(genera - old_genera)]
            yield [f"{split}: {label}", len(rows), bases(rows), *counts, nameless]
        old_groups |= {row["group"] for row in splits[split]}
        old_genera |= {name_of(row, "genus") for row in splits[split]} - {""}


def data_section(data: Mapping[str, Any], splits: Mapping[str, list[Row]]) -> Iterator[str]:
    """The splits, and where the sequences are from.

    data: what a bundle's manifest says of them; splits: rows of the table that they were prepared from.
    """
    yield "## The data"
    yield RULE
    columns = "records, bases, groups, new groups, genera, new genera, records without a genus"
    yield table(f"split, {columns}", list(split_rows(splits)))
    yield "The sha256 of the sorted record ids, one a line; the ids are in the bundles' manifests:"
    yield "\n".join(f"* {split}: `{data[split]['ids_sha256']}`" for split in SPLITS)
    sources: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for split in SPLITS:
        for row in splits[split]:
            sources[source(row)].append(row)
    free = [row for (_, licence), rows in sources.items() if licence == NONE_STATED for row in rows]
    repositories = {repository for repository, _ in sources}
    yield (
        f"The records are from {len(repositories)} source repositories, with the licence that each states\n"
        f"for itself. Of {len(free):,} records ({bases(free):,} bases) it is: {NONE_STATED}."
    )
    rows = [
        [*origin, len(found), bases(found), sum(row["split"] == VALIDATION for row in found)]
        for origin, found in sorted(sources.items())
    ]
    yield table("source repository, licence, records, bases, records of validation", rows)
