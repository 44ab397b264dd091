"""The corpus of the training, and the balanced drawing of records from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.training_fixture import bare_corpus, data, row
from training.data.corpus import DEV, EXTRA, TRAIN, VALIDATION, BalancedSampler, Corpus, hold_out, ids_digest


def sized_corpus(kinds: list[tuple[str, str, str, int]]) -> Corpus:
    """Records of (label, domain, group, bases), all to train on."""
    bare = bare_corpus(
        [row(str(i), label, TRAIN, group=group) for i, (label, _, group, _) in enumerate(kinds)]
    )
    lengths = [bases for *_, bases in kinds]
    given = {name: getattr(bare, name) for name in Corpus.__slots__}
    given["codes"] = np.full(sum(lengths), ord("A"), dtype=np.uint8)
    given["starts"] = np.concatenate([[0], np.cumsum(lengths)])
    given["domains"] = np.array([domain for _, domain, _, _ in kinds])
    return Corpus(**given)


KINDS = [
    ("virus", "prokaryotes", "tailed", 3000),
    ("virus", "prokaryotes", "tailed", 1000),
    ("virus", "prokaryotes", "micro", 1000),
    ("virus", "eukaryotes", "flu", 9000),
    ("others", "prokaryotes", "bacteria", 90_000),
    ("others", "eukaryotes", "plant", 500),
]


class TestCorpus:
    def test_a_saved_corpus_reads_back(self, tmp_path: Path) -> None:
        corpus = data().corpus
        corpus.save(tmp_path / "deep" / "genomes.npz")
        read = Corpus.load(tmp_path / "deep" / "genomes.npz")
        for name in Corpus.__slots__:
            assert np.array_equal(getattr(read, name), getattr(corpus, name)), name
        assert [path.name for path in (tmp_path / "deep").iterdir()] == ["genomes.npz"]

    def test_letters_of_a_record_stay_within_it(self) -> None:
        corpus = data().corpus
        whole = corpus.codes.tobytes().decode()
        first, last = int(corpus.starts[3]), int(corpus.starts[4])
        assert corpus.sequence(3) == whole[first:last]
        assert corpus.sequence(3, 20, 50) == whole[first + 20 : first + 50]
        assert corpus.sequence(3, 2900, 10_000) == whole[first + 2900 : last]

    def test_records_of_splits(self) -> None:
        corpus = data().corpus
        assert [str(corpus.ids[i])[-2:] for i in corpus.records_of(VALIDATION)] == ["10", "11", "12"] * 2
        assert len(corpus.records_of(TRAIN, DEV)) == len(corpus.ids) - 6
        with pytest.raises(ValueError, match="unknown split 'test'"):
            corpus.records_of("test")

    def test_digest_names_a_set_of_ids(self) -> None:
        assert ids_digest(["a", "b"]) == ids_digest(["b", "a"]) != ids_digest(["ab"])


class TestBalancedSampler:
    def test_labels_and_domains_have_equal_shares_and_groups_the_root_of_their_size(self) -> None:
        sampler = BalancedSampler(sized_corpus(KINDS), np.arange(6), exponent=0.5)
        shares = sampler.probabilities
        assert shares[:4].sum() == pytest.approx(0.5)
        assert shares[3] == shares[4] == shares[5] == pytest.approx(0.25)
        assert shares[:2].sum() / shares[2] == pytest.approx(2)
        assert shares[0] / shares[1] == pytest.approx(3)

    def test_a_label_of_one_domain_still_has_its_half(self) -> None:
        sampler = BalancedSampler(sized_corpus(KINDS), np.array([0, 3, 4]), exponent=1.0)
        assert sampler.probabilities == pytest.approx([0.25, 0.25, 0.5])

    def test_a_base_of_an_extra_source_counts_by_its_weight_within_its_kind(self) -> None:
        corpus = sized_corpus(
            [*KINDS, ("others", "eukaryotes", "plant", 500), ("others", "eukaryotes", "fungi", 500)]
        )
        corpus.splits[6:] = EXTRA
        shares = BalancedSampler(corpus, np.arange(8), exponent=1.0, extra_weight=0.25).probabilities
        assert shares[:4].sum() == pytest.approx(0.5)
        assert shares[4] == pytest.approx(0.25)
        assert shares[5:] == pytest.approx([0.25 / 1.5, 0.0625 / 1.5, 0.0625 / 1.5])

    def test_draws_follow_the_shares_and_never_leave_the_records(self) -> None:
        corpus = data().corpus
        train = corpus.records_of(TRAIN)
        sampler = BalancedSampler(corpus, train)
        drawn = (
            np.bincount(sampler.draw(np.random.default_rng(1), 40_000), minlength=len(corpus.ids)) / 40_000
        )
        assert drawn[train] == pytest.approx(sampler.probabilities, abs=0.01)
        assert drawn.sum() == pytest.approx(drawn[train].sum())

    def test_after_failures_it_stays_in_the_group_then_leaves_it_then_gives_up(self) -> None:
        sampler, rng = BalancedSampler(sized_corpus(KINDS), np.arange(6)), np.random.default_rng(1)
        assert {sampler.again(0, failures, rng) for failures in range(1, 200)} == {0, 1}
        assert {sampler.again(0, 200 * k, rng) for k in range(1, 60)} > {3, 4, 5}
        with pytest.raises(ValueError, match="20000 chunks in a row have no open frame"):
            sampler.again(0, 20_000, rng)

    def test_no_records(self) -> None:
        with pytest.raises(ValueError, match="no records"):
            BalancedSampler(data().corpus, np.empty(0, dtype=np.int64))


@given(
    st.lists(st.tuples(st.sampled_from(["", "a", "b", "c", "d", "e"]), st.integers(1, 1000)), min_size=1),
    st.floats(0.01, 0.9),
    st.integers(0, 5),
)
def test_hold_out_takes_whole_keys_of_a_bounded_size(
    members: list[tuple[str, int]], share: float, seed: int
) -> None:
    keys, sizes = [key for key, _ in members], [size for _, size in members]
    taken = hold_out(keys, sizes, share, np.random.default_rng(seed))
    of_key = {key: sum(size for other, size in members if other == key) for key in keys}
    wanted = share * sum(sizes)
    held = sum(of_key[key] for key in taken)
    assert "" not in taken
    assert taken <= set(keys)
    assert all(of_key[key] <= wanted / 5 for key in taken)
    assert held <= wanted * 6 / 5
    assert held >= wanted or all(of_key[key] > wanted / 5 for key in set(keys) - taken - {""})
