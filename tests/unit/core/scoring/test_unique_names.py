"""Names that tell records of one id apart."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from virnucpro_core.scoring.unique_names import unique_names


def test_an_id_that_comes_once_is_the_name_and_others_are_numbered() -> None:
    assert list(unique_names(["a", "b", "a", "c", "a"])) == ["a_1", "b", "a_2", "c", "a_3"]


def test_a_name_that_an_id_has_is_not_given() -> None:
    assert list(unique_names(["a", "a_1", "a"])) == ["a_2", "a_1", "a_3"]


@given(st.lists(st.text("a_1", max_size=4), max_size=12))
def test_no_two_names_are_the_same_and_single_ids_stay(ids: list[str]) -> None:
    names = list(unique_names(ids))
    assert len(set(names)) == len(ids)
    counts = Counter(ids)
    for record_id, name in zip(ids, names, strict=True):
        assert (name == record_id) is (counts[record_id] == 1)
        assert name.startswith(record_id)
