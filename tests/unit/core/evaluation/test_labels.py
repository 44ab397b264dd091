"""Tables of labels: what is read, and what is refused with a line number."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from virnucpro_core.evaluation.labels import Label, LabelFileError, read_labels


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "labels.tsv"
    path.write_bytes(text.encode())
    return path


def test_columns_come_in_any_order_beside_others(tmp_path):
    path = table(tmp_path, "\ufefflabel\tspecies\tid\tgroup\nvirus\tx\ta\tFlaviviridae\nothers\t\tb\t\r\n")
    assert read_labels(path) == {"a": Label(True, "Flaviviridae"), "b": Label(False, "")}


def test_a_table_of_labels_needs_no_column_group(tmp_path):
    assert read_labels(table(tmp_path, 'id\tlabel\n"a\tvirus\n')) == {'"a': Label(True)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column id and label"),
        ("id\tkind\na\tvirus\n", "no column label"),
        ("id\tlabel\n", "no row"),
        ("id\tlabel\tlabel\na\tvirus\tothers\n", "has 2 columns label: keep one"),
        ("id\tid\tlabel\na\ta\tvirus\n", "has 2 columns id: keep one"),
        ("id\tgroup\tlabel\tgroup\tgroup\na\tx\tvirus\ty\tz\n", "has 3 columns group: keep one"),
        ("id\tlabel\na\tviral\n", "line 2: the label is 'viral'; it must be others or virus"),
        ("id\tlabel\na\n", "line 2: the label is ''"),
        ("id\tlabel\na\tvirus\n\tvirus\n", "line 3: the id is empty"),
        ("id\tlabel\na\tvirus\na\tothers\n", "line 3: 'a' is there a second time"),
    ],
)
def test_what_is_refused(tmp_path, text, said):
    with pytest.raises(LabelFileError, match=said) as refused:
        read_labels(table(tmp_path, text))
    assert "\n" not in str(refused.value)


def test_a_missing_file_and_one_that_is_no_text(tmp_path):
    with pytest.raises(LabelFileError, match=r"nowhere.tsv cannot be read: No such file"):
        read_labels(tmp_path / "nowhere.tsv")
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LabelFileError, match="not text in UTF-8"):
        read_labels(tmp_path / "x")


CELLS = st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), min_size=1).filter(
    lambda cell: cell == cell.strip()
)


@given(st.dictionaries(CELLS, CELLS), st.sampled_from(["\n", "\r\n", "\r"]))
@example({"a" * 200_000: "b" * 200_000}, "\n")
@example(
    {"a\x0cb": "form feed", "a\u2028b": "line separator", 'a"b': '"', "a\x85b": "a\x0bb", "a\x1cb": "\0"},
    "\n",
)
def test_a_cell_holds_anything_but_tabs_and_line_ends_at_any_length(
    tmp_path_factory, groups: dict[str, str], line_end: str
) -> None:
    rows = [
        "id\tlabel\tgroup",
        *(f"{name}\tvirus\t{group}" for name, group in groups.items()),
        "last\tothers",
    ]
    found = read_labels(table(tmp_path_factory.mktemp("case"), line_end.join(rows)))
    assert found == {**{name: Label(True, group) for name, group in groups.items()}, "last": Label(False)}
