"""The mutants fit the code that they break, and the guide's table is about them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.tools.mutants import MUTANTS, ROOT, Mutant, MutantError, patched, table, with_results

GUIDE = ROOT / "docs" / "reliability.md"
by_name = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)


@by_name
def test_a_mutant_fits_in_one_place_and_what_it_makes_compiles(mutant):
    compile(patched(mutant), mutant.file, "exec")


@by_name
def test_the_tests_that_are_to_notice_are_there(mutant):
    for name in mutant.tests:
        file, _, function = name.partition("::")
        assert (ROOT / file).exists()
        assert not function or f"def {function}(" in (ROOT / file).read_text()


def test_names_and_mechanisms_are_distinct():
    assert len({mutant.name for mutant in MUTANTS}) == len({m.mechanism for m in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("text", ["x = 2\n", "x = 1\nx = 1\n"])
def test_a_patch_that_fits_nowhere_or_twice_is_refused(text, tmp_path: Path):
    (tmp_path / "code.py").write_text(text)
    with pytest.raises(MutantError, match=r"'one' no longer fits code\.py"):
        patched(Mutant("one", "one thing", "code.py", "x = 1", "x = 3"), tmp_path)


def test_the_table_has_a_row_for_each_mutant_with_a_test_that_is_there():
    rows = table(GUIDE.read_text())
    assert list(rows) == [mutant.mechanism for mutant in MUTANTS]
    for test in rows.values():
        file, *_, name = test.split("::")
        assert re.search(rf"^ *def {name}\(", (ROOT / file).read_text(), re.MULTILINE), test


def test_results_replace_their_rows_and_leave_all_else():
    guide = GUIDE.read_text()
    assert with_results(guide, {}) == guide
    first, second = (mutant.mechanism for mutant in MUTANTS[:2])
    written = with_results(guide, {first: "tests/unit/test_x.py::test_y"})
    assert table(written) == table(guide) | {first: "tests/unit/test_x.py::test_y"}
    assert written.count("\n") == guide.count("\n")
    assert f"| {second} |" in written
