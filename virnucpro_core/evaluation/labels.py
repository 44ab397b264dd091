"""What records are known to be: a table that is read beside a sequence file."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from virnucpro_core.scoring.verdicts import CLASSES, VIRUS

LABELS = CLASSES
"""The words of a table's column `label`: the names of the classes."""


class LabelFileError(ValueError):
    """A table of labels that cannot be used; the message is one line with the cause and the cure."""


@dataclass(frozen=True, slots=True)
class Label:
    """Is a record a virus, and which group it belongs to (a family, a genus), "" where the table has none."""

    is_virus: bool
    group: str = ""


def read_labels(path: Path) -> dict[str, Label]:
    """Labels by record id.

    Args:
        path: text in UTF-8, columns separated by tabs, with a header that names at least `id` (the first word of a
            sequence's header) and `label` (`virus` or `others`), in any order; `group` is read too, where it is.

    Raises:
        LabelFileError: the file cannot be read, a column is missing, a label is another word, an id comes twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise LabelFileError(f"{path} cannot be read: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise LabelFileError(f"{path} is not text in UTF-8: save it as a table separated by tabs") from error
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    missing = {"id", "label"} - set(rows.fieldnames or ())
    if missing:
        raise LabelFileError(
            f"{path} has no column {' and '.join(sorted(missing))}: its first line must name the columns id and label, "
            "separated by tabs"
        )
    found: dict[str, Label] = {}
    for row in rows:
        where = f"{path}, line {rows.line_num}"
        record_id, label = (row["id"] or "").strip(), (row["label"] or "").strip()
        if label not in LABELS:
            raise LabelFileError(f"{where}: the label is {label!r}; it must be {' or '.join(LABELS)}")
        if not record_id:
            raise LabelFileError(f"{where}: the id is empty")
        if record_id in found:
            raise LabelFileError(f"{where}: {record_id} is there a second time; keep one of the two")
        found[record_id] = Label(label == LABELS[VIRUS], (row.get("group") or "").strip())
    if not found:
        raise LabelFileError(f"{path} has no row under its header")
    return found
