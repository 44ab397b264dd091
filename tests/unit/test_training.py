"""The light parts of training/: corpus, balanced sampling, held-out families, noise, figures."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.corpus import DEV, TRAIN, VALIDATION, BalancedSampler, Corpus, hold_out, ids_digest
from training.metrics import Layout, auroc, evaluate
from training.noise import MaskRule, mask_tokens, mutate
from training.prepare_data import build
from training.shards import Sampling, evaluation_part, join, training_shard
from training.train_tokenizer import SPECIALS, sample_pieces, train_tokenizer
from virnucpro_core.frames import open_frames
from virnucpro_core.tokens import ESM2_CLS, ESM2_EOS, ESM2_MASK, DnaTokenizer, esm2_token_ids


def make_corpus() -> Corpus:
    """Six random genomes: three of each label, the last of each in the validation split."""
    rng = np.random.default_rng(7)
    lengths = [3000, 900, 1200, 6000, 700, 800]
    letters = [rng.choice(np.frombuffer(b"ACGGCC", dtype=np.uint8), n) for n in lengths]
    return Corpus(
        codes=np.concatenate(letters),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        ids=np.array(["v1", "v2", "v3", "b1", "b2", "b3"]),
        groups=np.array(["phage", "flu", "flu", "bacteria", "plant", "plant"]),
        splits=np.array([TRAIN, TRAIN, VALIDATION, TRAIN, TRAIN, VALIDATION]),
        labels=np.array([1, 1, 1, 0, 0, 0], dtype=np.uint8),
    )


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> DnaTokenizer:
    """A tokenizer trained on the tiny corpus, through its file."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(sample_pieces(make_corpus(), 60, 150, seed=1), 64).save(str(path))
    return DnaTokenizer(path)


class TestCorpus:
    def test_a_saved_corpus_reads_back(self, tmp_path: Path) -> None:
        corpus = make_corpus()
        corpus.save(tmp_path / "deep" / "genomes.npz")
        read = Corpus.load(tmp_path / "deep" / "genomes.npz")
        for name in Corpus.__slots__:
            assert np.array_equal(getattr(read, name), getattr(corpus, name)), name

    def test_letters_of_a_record_stay_within_it(self) -> None:
        corpus = make_corpus()
        whole = corpus.codes.tobytes().decode()
        assert corpus.sequence(1) == whole[3000:3900]
        assert corpus.sequence(1, 890, 2000) == whole[3890:3900]

    def test_records_of_a_split(self) -> None:
        assert make_corpus().records_of(VALIDATION).tolist() == [2, 5]
        with pytest.raises(ValueError, match="unknown split 'test'"):
            make_corpus().records_of("test")

    def test_digest_names_a_set_of_ids(self) -> None:
        assert ids_digest(["a", "b"]) == ids_digest(["b", "a"]) != ids_digest(["ab"])


class TestBalancedSampler:
    def test_each_label_has_half_the_draws_and_only_its_records_are_drawn(self) -> None:
        corpus = make_corpus()
        train = corpus.records_of(TRAIN)
        sampler = BalancedSampler(train, corpus.labels, corpus.groups, corpus.lengths, 0.5)
        weight = dict(zip(train.tolist(), sampler.probabilities.tolist(), strict=True))
        assert weight[0] + weight[1] == pytest.approx(0.5)
        assert weight[0] / weight[1] == pytest.approx((3000 / 900) ** 0.5)
        drawn = sampler.draw(np.random.default_rng(1), 20_000)
        shares = np.bincount(drawn, minlength=6) / 20_000
        assert np.allclose(shares[train], sampler.probabilities, atol=0.02)
        assert shares[[2, 5]].sum() == 0

    def test_exponent_zero_gives_groups_equal_shares(self) -> None:
        corpus = make_corpus()
        sampler = BalancedSampler(np.arange(6), corpus.labels, corpus.groups, corpus.lengths, 0.0)
        of_flu = sampler.probabilities[corpus.groups == "flu"]
        assert of_flu.sum() == pytest.approx(0.25)
        assert of_flu[0] / of_flu[1] == pytest.approx(900 / 1200)

    def test_no_records(self) -> None:
        corpus = make_corpus()
        with pytest.raises(ValueError, match="no records"):
            BalancedSampler(np.empty(0, dtype=np.int64), corpus.labels, corpus.groups, corpus.lengths)


@given(
    st.lists(st.tuples(st.sampled_from(["", "a", "b", "c", "d", "e"]), st.integers(1, 1000)), min_size=1),
    st.floats(0.01, 0.6),
    st.integers(0, 5),
)
def test_hold_out_takes_whole_keys_of_a_bounded_size(
    members: list[tuple[str, int]], share: float, seed: int
) -> None:
    keys, sizes = [key for key, _ in members], [size for _, size in members]
    taken = hold_out(keys, sizes, share, np.random.default_rng(seed))
    held = sum(size for key, size in members if key in taken)
    assert "" not in taken
    assert taken <= set(keys)
    assert held <= share * sum(sizes) * 4 / 3
    left = [sum(size for other, size in members if other == key) for key in set(keys) - taken if key]
    assert held >= share * sum(sizes) or all(size > share * sum(sizes) / 3 for size in left)


def test_prepared_data_holds_the_manifest_and_moves_whole_families_to_dev(tmp_path: Path) -> None:
    rows = []
    rng = np.random.default_rng(3)
    with (tmp_path / "all.fasta").open("w") as fasta:
        for number in range(40):
            sequence = "".join(rng.choice(list("acgt"), 50 + number))
            label = "virus" if number % 2 else "others"
            split = ["train", "train", "train", "validation"][number // 10]
            fasta.write(f">r{number}|x\n{sequence}\n")
            family, genus = (f"f{number % 7}", "") if label == "virus" else ("", f"g{number % 8}")
            rows.append([f"r{number}", label, "group", family, genus, "s", len(sequence), split])
        fasta.write(">stray\nACGT\n")
    rows.append(["stray", "virus", "group", "f1", "", "s", 4, "kept-aside"])
    with (tmp_path / "manifest.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["id", "label", "group", "family", "genus", "species", "length", "split"])
        writer.writerows(rows)
    corpus = build([tmp_path / "all.fasta"], tmp_path / "manifest.tsv", share=0.5, seed=1)
    assert sorted(corpus.ids.tolist()) == sorted(row[0] for row in rows[:-1])
    by_id = {row[0]: row for row in rows}
    key_splits: dict[str, set[str]] = {}
    for record, record_id in enumerate(corpus.ids.tolist()):
        row = by_id[record_id]
        assert len(corpus.sequence(record)) == row[6]
        assert corpus.sequence(record).isupper()
        split = str(corpus.splits[record])
        assert (split == VALIDATION) == (row[7] == "validation")
        if split != VALIDATION:
            key_splits.setdefault(row[3] or row[4], set()).add(split)
    assert all(len(splits) == 1 for splits in key_splits.values())
    assert {DEV} in key_splits.values()


def dumb_auroc(scores: list[float], positive: list[bool]) -> float:
    """Every pair, one by one."""
    won = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, of_a in zip(scores, positive, strict=True)
        for b, of_b in zip(scores, positive, strict=True)
        if of_a and not of_b
    ]
    return sum(won) / len(won)


class TestMetrics:
    @given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40))
    def test_auroc_is_the_share_of_ordered_pairs(self, pairs: list[tuple[int, bool]]) -> None:
        scores, positive = [s / 7 for s, _ in pairs], [p for _, p in pairs]
        measured = auroc(np.array(scores), np.array(positive))
        if len(set(positive)) < 2:
            assert np.isnan(measured)
        else:
            assert measured == pytest.approx(dumb_auroc(scores, positive))

    def test_verdicts_are_virnucpro_s(self) -> None:
        virus = np.array([0.9, 0.2, 0.4, 0.5, 0.3], dtype=np.float32)
        scores = np.stack([1 - virus, virus], axis=1)
        # Record 0 (virus): chunks {0.9, 0.2} right and {0.4} wrong. Record 1 (others): {0.5} a tie, so virus;
        # {0.3} right; its best is 0.5 against 0.7: others, right.
        layout = Layout(np.array([0, 0, 1, 2, 3]), np.array([4, 4, 7, 7]))
        labels, groups = np.zeros(8, dtype=np.uint8), np.array(["?"] * 4 + ["flu"] + ["?"] * 2 + ["plant"])
        labels[4] = 1
        figures = evaluate(scores, layout, labels, groups)
        assert figures["chunks"] == 4
        assert figures["chunk_accuracy"] == 0.5
        assert figures["chunk_sensitivity"] == 0.5
        assert figures["chunk_specificity"] == 0.5
        assert figures["record_accuracy"] == 1.0
        assert figures["by_group"]["flu"]["chunk_accuracy"] == 0.5
        assert figures["by_group"]["plant"] == {
            "label": "others", "chunks": 2, "chunk_accuracy": 0.5, "records": 1, "record_accuracy": 1.0,
        }  # fmt: skip
        differences = [0.9 - 0.8, 0.4 - 0.6, 0.0, 0.3 - 0.7]
        assert figures["chunk_auroc"] == pytest.approx(dumb_auroc(differences, [True, True, False, False]))


class TestNoise:
    RULE = MaskRule(mask=99, first=10, last=20, sequences=0.5, rate=0.4)

    @given(st.lists(st.integers(2, 60), min_size=1, max_size=30), st.integers(0, 100))
    def test_hidden_tokens_can_be_restored_and_ends_stay(self, lengths: list[int], seed: int) -> None:
        ids = np.random.default_rng(seed).integers(10, 20, sum(lengths)).astype(np.int32)
        masked = mask_tokens(ids, np.array(lengths), self.RULE, np.random.default_rng(seed))
        ends = np.cumsum(lengths)
        assert not set(masked.positions.tolist()) & (set(ends - 1) | set(ends - lengths))
        assert np.array_equal(masked.targets, ids[masked.positions])
        restored = masked.ids.copy()
        restored[masked.positions] = masked.targets
        assert np.array_equal(restored, ids)
        assert masked.ids.dtype == np.int32
        assert set(masked.ids.tolist()) <= {*range(10, 20), 99}

    def test_shares(self) -> None:
        lengths = np.full(2000, 100)
        ids = np.full(lengths.sum(), 5, dtype=np.int32)
        masked = mask_tokens(ids, lengths, self.RULE, np.random.default_rng(1))
        touched = np.unique(masked.positions // 100)
        assert len(touched) == pytest.approx(1000, abs=80)
        assert len(masked.positions) / len(touched) == pytest.approx(0.4 * 98, rel=0.02)
        assert (masked.ids == 99).sum() / len(masked.positions) == pytest.approx(0.8, abs=0.01)
        assert (masked.ids[masked.positions] == 5).mean() == pytest.approx(0.1, abs=0.01)

    def test_mutation_keeps_the_length_and_hits_at_its_rate(self) -> None:
        rng = np.random.default_rng(1)
        assert mutate("ACGNT" * 100, 0.0, rng) == "ACGNT" * 100
        mutated = mutate("A" * 40_000, 0.2, rng)
        assert len(mutated) == 40_000
        assert set(mutated) == set("ACGT")
        assert 1 - mutated.count("A") / 40_000 == pytest.approx(0.15, abs=0.01)


class TestShards:
    def test_a_shard_depends_on_its_number_alone(self, tokenizer: DnaTokenizer) -> None:
        corpus = make_corpus()
        sampler = BalancedSampler(corpus.records_of(TRAIN), corpus.labels, corpus.groups, corpus.lengths)
        first, again, other = (
            training_shard(corpus, sampler, tokenizer, Sampling(seed=5, chunks=6), number)
            for number in (3, 3, 4)
        )
        assert np.array_equal(first.protein.ids, again.protein.ids)
        assert np.array_equal(first.dna.ids, again.dna.ids)
        assert not np.array_equal(first.protein.ids[:200], other.protein.ids[:200])

    def test_a_clean_shard_is_chunks_of_the_training_split_as_they_are(self, tokenizer: DnaTokenizer) -> None:
        corpus = make_corpus()
        sampler = BalancedSampler(corpus.records_of(TRAIN), corpus.labels, corpus.groups, corpus.lengths)
        shard = training_shard(corpus, sampler, tokenizer, Sampling(seed=5, chunks=8).clean(), 0)
        assert len(shard.protein.positions) == len(shard.dna.positions) == 0
        assert np.array_equal(np.unique(shard.frame_chunk), np.arange(8))
        assert len(shard.chunk_label) == 8
        ends = np.cumsum(shard.protein_lengths)
        assert ends[-1] == len(shard.protein.ids)
        assert np.cumsum(shard.dna_lengths)[-1] == len(shard.dna.ids)
        assert (shard.protein.ids[ends - 1] == ESM2_EOS).all()
        assert (shard.protein.ids[ends - shard.protein_lengths] == ESM2_CLS).all()
        assert ESM2_MASK not in shard.protein.ids
        assert SPECIALS.index("[MASK]") not in shard.dna.ids

    def test_an_evaluation_set_is_what_the_service_prepares(self, tokenizer: DnaTokenizer) -> None:
        corpus = make_corpus()
        joined = join([evaluation_part(corpus, tokenizer, 500, np.array([record])) for record in (2, 5)])
        whole = evaluation_part(corpus, tokenizer, 500, np.array([2, 5]))
        assert joined.chunks == whole.chunks == 3 + 2
        assert np.array_equal(joined.layout.frame_chunk, whole.layout.frame_chunk)
        assert np.array_equal(joined.layout.chunk_record, whole.layout.chunk_record)
        expected = open_frames(corpus.sequence(2)[:500])
        assert [frame.label for frame in whole.frames if frame.chunk == 0][: len(expected)] == [
            frame.label for frame in expected
        ]
        assert np.array_equal(whole.frames[0].protein_ids, esm2_token_ids(expected[0].protein))
