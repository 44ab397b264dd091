"""The figures and pictures of the bundles' model card, from the cross-validation of their recipe.

    python -m training.reports.model_card --results OUT/cross-validation/NAME --manifest manifest.tsv
        --extra-manifest extra_manifest.tsv --docs docs

The bundles are those of a last training on everything (`training.run`), by default those in the package.
Reads their manifests, result-LENGTH.json and scores-LENGTH.jsonl of the results, and the tables that the data was
prepared from, which must have the columns source_repo and repo_licence. Writes docs/nano/figures.md and
docs/nano/LENGTH-*.png, all of them or none. The same input gives the same files.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.data.corpus import EXTRA, SPLITS
from training.data.prepare_data import read_extra
from training.data.prepare_data import read_manifest as read_rows
from training.recipe import LENGTHS
from training.reports.fold_metrics import MEASURES, spread_out
from training.reports.model_card_text import (
    HEAD,
    PICTURES,
    Made,
    Row,
    bases,
    bundle_section,
    data_section,
    training_section,
)
from training.reports.record_scores import read_scores
from training.reports.whole_records import whole_records
from virnucpro_core.atomic_files import atomic_write
from virnucpro_core.bundle.bundle import find_bundle, read_manifest
from virnucpro_core.bundle.manifest import Manifest
from virnucpro_core.evaluation.labels import LABELS
from virnucpro_core.evaluation.metrics import auroc, by_kind, curves
from virnucpro_core.evaluation.plots import write_plots
from virnucpro_core.hashing import sha256_of

LEAST_CHUNKS = 30


def read_made(bundles: Path | None, results: Path, lengths: Sequence[int]) -> list[Made]:
    """The bundles, and what cross-validation says of them.

    bundles: their folder, or None for the package's; results: of `training.runs.cross_validate`.

    Raises:
        ValueError: one is missing, the results are of another recipe or other data, or the bundles are of two.
        OSError: a file cannot be read.
    """
    found: list[Made] = []
    for length in lengths:
        name = f"nano-{length}"
        manifest, sha256 = read_manifest(find_bundle(name if bundles is None else bundles / name))
        if found and any(
            found[0].manifest.training[key] != manifest.training[key] for key in ("recipe", "data")
        ):
            raise ValueError(
                f"{found[0].manifest.id} and {name} are of different recipes or data: make them with one "
                "python -m training.run"
            )
        result, scores = results / f"result-{length}.json", results / f"scores-{length}.jsonl"
        _check(manifest, result, scores)
        read = read_scores(scores)
        content = json.loads(result.read_text(encoding="utf-8"))
        found.append(Made(manifest, sha256, content, read, whole_records(read, length)))
    return found


def _check(manifest: Manifest, result: Path, scores: Path) -> None:
    judged = manifest.training.get("cross_validation")
    if judged is None or manifest.calibration is None:
        raise ValueError(
            f"{manifest.id} was not made by python -m training.run: its manifest has no "
            "cross-validation or no calibration"
        )
    content = json.loads(result.read_text(encoding="utf-8"))
    if {key: content.get(key) for key in (*MEASURES, "right", "temperature")} != judged:
        raise ValueError(
            f"{result} is not of the recipe of {manifest.id}: give the results that it was made with"
        )
    if manifest.calibration.about.get("scores", {}).get("sha256") != sha256_of(scores):
        raise ValueError(
            f"{scores} is not what the calibration of {manifest.id} was fitted on: give the results that it was "
            "made with"
        )


def read_splits(manifest: Path, extra: Path | None, data: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Rows of the records that a bundle's manifest names, by split.

    manifest, extra: the tables that the data was prepared from; data: what the bundle's manifest says of it.

    Raises:
        ValueError: a table is not one, or not that of these records.
    """
    rows = read_rows(manifest)
    splits = [split for split in (*SPLITS, EXTRA) if split in data]
    if EXTRA in splits:
        if extra is None:
            raise ValueError("the bundles are trained on extra sources: give their table by --extra-manifest")
        rows |= read_extra(extra, rows)
    for name in ("source_repo", "repo_licence"):
        if any(row.get(name) is None for row in rows.values()):
            raise ValueError(
                f"a manifest has no column {name}, or not in every row: add where each record is from"
            )
    found = {split: [rows[i] for i in data[split]["ids"].split() if i in rows] for split in splits}
    for split in splits:
        for label in LABELS:
            chosen = [row for row in found[split] if row["label"] == label]
            if data[split][label] != {"records": len(chosen), "bases": bases(chosen)}:
                raise ValueError(
                    f"{extra if split == EXTRA else manifest} does not have the bundles' records of {split}: give the "
                    "manifests that python -m training.data.prepare_data was given"
                )
    return found


def draw(shown: Mapping[str, Any]) -> dict[str, bytes]:
    """The pictures of a report, PNG, by their names in `PICTURES`; shown: see `write_plots`."""
    with tempfile.TemporaryDirectory() as folder:
        drawn = {path.stem: few_colours(path) for path in write_plots(shown, Path(folder))}
    return {name: drawn[name] for name in PICTURES if name in drawn}


def few_colours(path: Path) -> bytes:
    """A picture as PNG of 32 colours: it looks the same, and is a third of the size in the history."""
    from PIL import Image  # matplotlib has it

    small = io.BytesIO()
    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(32, dither=Image.Dither.NONE)
        few.save(small, format="PNG", optimize=True, dpi=picture.info["dpi"])
    return small.getvalue()


def make_card(
    bundles: Sequence[Made], splits: Mapping[str, list[Row]], folder: Path, least_chunks: int
) -> list[Path]:
    """Write figures.md and its pictures into `folder`, which is made if it is missing: all files or none.

    Args:
        bundles: see `read_made`.
        splits: see `read_splits`.
        least_chunks: of a group that is named as missed.

    Returns:
        the files.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: a file cannot be written.
    """
    files: dict[Path, bytes] = {}
    parts = [HEAD]
    for made in bundles:
        scores = made.scores
        counted = spread_out(scores.owner)
        record = scores.owner[counted]
        margins, virus = scores.margins[counted], scores.is_virus[record]
        groups = by_kind(margins, virus, record, scores.groups[record])
        shown = {
            "model": {"id": f"{made.manifest.id}, cross-validated"},
            "chunks": {"auroc": auroc(margins, virus)},
            "curves": curves(margins, virus),
            "by_group": groups,
        }
        pictures = draw(shown)
        length = made.manifest.expected_length
        files |= {folder / f"{length}-{name}.png": png for name, png in pictures.items()}
        parts += bundle_section(made, groups, pictures, least_chunks)
    data = bundles[0].manifest.training["data"]
    parts += [*training_section(bundles), *data_section(data, splits, bundles[0].scores)]
    files[folder / "figures.md"] = ("\n\n".join(parts) + "\n").encode()
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(*files) as written:
        for draft, content in zip(written, files.values(), strict=True):
            draft.write_bytes(content)
    return list(files)


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bundles", type=Path, help="OUT/everything of training.run; by default the package's"
    )
    parser.add_argument(
        "--results", type=Path, required=True, help="OUT/cross-validation/NAME of their recipe"
    )
    parser.add_argument(
        "--manifest", type=Path, required=True, help="the --manifest of training.data.prepare_data"
    )
    parser.add_argument("--extra-manifest", type=Path, help="its --extra-manifest, if there was one")
    parser.add_argument("--docs", type=Path, required=True, help="folder; nano/ in it takes the files")
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument(
        "--least-chunks", type=int, default=LEAST_CHUNKS, help="of a group that is named as missed"
    )
    given = parser.parse_args(arguments)
    try:
        bundles = read_made(given.bundles, given.results, given.lengths)
        data = bundles[0].manifest.training["data"]
        splits = read_splits(given.manifest, given.extra_manifest, data)
        files = make_card(bundles, splits, given.docs / "nano", given.least_chunks)
    except ImportError:
        parser.exit(1, "the pictures need matplotlib: pip install 'virnucpro-stream[train]'\n")
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(*files, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
