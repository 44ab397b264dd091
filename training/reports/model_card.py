"""The figures and pictures of the bundles' model card, from what training.run wrote.

    python -m training.reports.model_card --out OUT --manifest manifest.tsv --docs docs

Reads OUT/nano-LENGTH.json, the manifests of the bundles OUT/nano-LENGTH, and the table that the data was
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

from training.data.corpus import SPLITS
from training.data.prepare_data import read_manifest as read_rows
from training.recipe import LENGTHS
from training.reports.evaluate import headline
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
from virnucpro_core.atomic_files import atomic_write
from virnucpro_core.bundle.bundle import read_manifest
from virnucpro_core.evaluation.labels import LABELS
from virnucpro_core.evaluation.plots import write_plots

LEAST_CHUNKS = 30


def read_made(out: Path, lengths: Sequence[int]) -> list[Made]:
    """The bundles of a run.

    Raises:
        ValueError: one is missing, has the report of another, or is of another recipe or other data.
    """
    found: list[Made] = []
    for length in lengths:
        folder, path = out / f"nano-{length}", out / f"nano-{length}.json"
        if not (folder.is_dir() and path.is_file()):
            raise ValueError(
                f"{out} has no {folder.name} with its report: make them with python -m training.run"
            )
        manifest, sha256 = read_manifest(folder)
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            its_own = headline(report) == manifest.validation
        except (KeyError, TypeError, ValueError):
            its_own = False
        if not its_own:
            raise ValueError(
                f"{path} is not the report of the bundle beside it: remove {folder} and repeat "
                "python -m training.run, which measures it again"
            )
        found.append(Made(manifest, sha256, report))
        if any(found[0].manifest.training[key] != manifest.training[key] for key in ("recipe", "data")):
            raise ValueError(
                f"the bundles in {out} are of different recipes or data: make them with one "
                "python -m training.run"
            )
    return found


def read_splits(path: Path, data: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Rows of the records that a bundle's manifest names, by split.

    Raises:
        ValueError: the table is not one, or not that of these records.
    """
    rows = read_rows(path)
    for name in ("source_repo", "repo_licence"):
        if any(row.get(name) is None for row in rows.values()):
            raise ValueError(
                f"{path} has no column {name}, or not in every row: add where each record is from"
            )
    found = {split: [rows[i] for i in data[split]["ids"].split() if i in rows] for split in SPLITS}
    for split in SPLITS:
        for label in LABELS:
            chosen = [row for row in found[split] if row["label"] == label]
            if data[split][label] != {"records": len(chosen), "bases": bases(chosen)}:
                raise ValueError(
                    f"{path} does not have the bundles' records of {split}: give the manifest that "
                    "python -m training.data.prepare_data was given"
                )
    return found


def draw(made: Made) -> dict[str, bytes]:
    """The pictures of a bundle, PNG, by their names in `PICTURES`."""
    report = made.report
    shown = {
        "model": {"id": f"{made.manifest.id}, all validation records"},
        "chunks": report["chunk"]["all"],
        "curves": report["curves"],
        "by_group": report["chunk"]["by_group"],
    }
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
    out: Path, manifest: Path, folder: Path, lengths: Sequence[int], least_chunks: int
) -> list[Path]:
    """Write figures.md and its pictures into `folder`, which is made if it is missing: all files or none.

    Args:
        out: of training.run.
        manifest: the table that the data was prepared from.
        lengths: of the bundles' chunks.
        least_chunks: of a group that is named as missed.

    Returns:
        the files.

    Raises:
        ValueError: see `read_made` and `read_splits`.
        ImportError: matplotlib is not installed.
        OSError: a file cannot be read or written.
    """
    bundles = read_made(out, lengths)
    data = bundles[0].manifest.training["data"]
    splits = read_splits(manifest, data)
    files: dict[Path, bytes] = {}
    parts = [HEAD]
    for made in bundles:
        pictures = draw(made)
        files |= {folder / f"{made.report['length']}-{name}.png": png for name, png in pictures.items()}
        parts += bundle_section(made, pictures, least_chunks)
    parts += [*training_section(bundles), *data_section(data, splits)]
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
    parser.add_argument("--out", type=Path, required=True, help="the --out of training.run")
    parser.add_argument(
        "--manifest", type=Path, required=True, help="the --manifest of training.data.prepare_data"
    )
    parser.add_argument("--docs", type=Path, required=True, help="folder; nano/ in it takes the files")
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument(
        "--least-chunks", type=int, default=LEAST_CHUNKS, help="of a group that is named as missed"
    )
    given = parser.parse_args(arguments)
    try:
        files = make_card(given.out, given.manifest, given.docs / "nano", given.lengths, given.least_chunks)
    except ImportError:
        parser.exit(1, "the pictures need matplotlib: pip install 'virnucpro-stream[train]'\n")
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(*files, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
