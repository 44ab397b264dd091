"""What records are known to be: a table that is read beside a sequence file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from virnucpro_core.scoring.verdicts import CLASSES, VIRUS

LABELS = CLASSES
"""The words of a table's column `label`: the names of the classes."""

_COLUMNS = ("id", "label", "group")
_SHOWN_LETTERS = 60


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
            sequence's header) and `label` (`virus` or `others`), in any order; `group` is read too, where it is. Cells
            are taken as they are, quotation marks included; a line ends with a line feed, a carriage return or both
            and nothing else. Blank lines are passed over.

    Raises:
        LabelFileError: the file cannot be read, a column is missing or there twice, a label is another word, an id
            comes twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise LabelFileError(f"{path} cannot be read: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise LabelFileError(f"{path} is not text in UTF-8: save it as a table separated by tabs") from error
    header, *lines = text.split("\n")
    columns = [name.strip() for name in header.split("\t")]
    missing = {"id", "label"} - set(columns)
    if missing:
        raise LabelFileError(
            f"{path} has no column {' and '.join(sorted(missing))}: its first line must name the columns id and label, "
            "separated by tabs"
        )
    for name in _COLUMNS:
        if columns.count(name) > 1:
            raise LabelFileError(f"{path} has {columns.count(name)} columns {name}: keep one of them")
    found: dict[str, Label] = {}
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        # A line may end before its last columns, or have more than the header.
        cells = dict(zip(columns, line.split("\t"), strict=False))
        record_id, label, group = (cells.get(name, "").strip() for name in _COLUMNS)
        if label not in LABELS:
            raise LabelFileError(f"{where}: the label is {_shown(label)}; it must be {' or '.join(LABELS)}")
        if not record_id:
            raise LabelFileError(f"{where}: the id is empty")
        if record_id in found:
            raise LabelFileError(f"{where}: {_shown(record_id)} is there a second time; keep one of the two")
        found[record_id] = Label(label == LABELS[VIRUS], group)
    if not found:
        raise LabelFileError(f"{path} has no row under its header")
    return found


def _shown(cell: str) -> str:
    return repr(cell if len(cell) <= _SHOWN_LETTERS else cell[:_SHOWN_LETTERS] + "...")
