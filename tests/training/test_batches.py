"""Batches of a table on the device, and the hiding of tokens."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.training_fixture import data, tiny_recipe
from training.data.batches import AMINO_ACIDS, DNA_MASK, PROTEIN, Alphabet, Batch, Table, dna_alphabet, hide
from training.data.corpus import TRAIN, BalancedSampler
from training.data.frame_table import DNA_PAD, Frames
from training.data.make_tables import drawn_part
from training.data.train_tokenizer import SPECIALS
from virnucpro_core.sequence.tokens import ESM2_ALPHABET_SIZE, ESM2_MASK, ESM2_PAD

CPU = torch.device("cpu")
SIZE = 16


@cache
def frames() -> Frames:
    corpus = data().corpus
    sampler = BalancedSampler(corpus, corpus.records_of(TRAIN))
    return drawn_part(corpus, sampler, data().tokenizer, tiny_recipe().data, 300, 0, 60)


def epoch(table: Table, number: int = 0) -> list[Batch]:
    return [table.batch(number * table.steps + step) for step in range(table.steps)]


class TestTable:
    def test_each_frame_comes_once_an_epoch_but_the_last_few(self) -> None:
        table = Table(frames(), SIZE, 1, CPU)
        assert len(frames()) % SIZE > 0
        for number in (0, 1):
            rows = torch.cat([batch.rows for batch in epoch(table, number)])
            assert len(rows) == len(frames()) // SIZE * SIZE
            assert len(rows.unique()) == len(rows)
        assert not torch.equal(table.batch(0).rows, table.batch(table.steps).rows)

    def test_the_frames_of_a_chunk_come_one_after_the_other_and_know_whose_they_are(self) -> None:
        table = Table(frames(), SIZE, 1, CPU)
        assert np.bincount(frames().frame_chunk).max() > 1
        seen: list[int] = []
        for batch in epoch(table):
            chunk = frames().frame_chunk[batch.rows]
            assert batch.frame_record.tolist() == frames().chunk_record[chunk].tolist()
            assert batch.protein.tolist() == frames().protein[batch.rows].tolist()
            assert batch.dna.tolist() == frames().dna[batch.rows].tolist()
            # The batch's own numbers go up from 0, by one where the chunk changes.
            assert batch.frame_chunk.tolist() == [0, *np.cumsum(np.diff(chunk) != 0).tolist()]
            seen += chunk.tolist()
        starts = [c for c, before in zip(seen, [-1, *seen], strict=False) if c != before]
        assert len(starts) == len(set(starts))

    def test_a_batch_depends_on_seed_and_step_alone(self) -> None:
        table, again = Table(frames(), SIZE, 1, CPU), Table(frames(), SIZE, 2, CPU)
        last = table.steps + 1
        wanted = table.batch(last).rows
        assert not torch.equal(again.batch(last).rows, wanted)
        again.reseed(1)
        assert torch.equal(again.batch(last).rows, wanted)
        table.batch(0)
        assert torch.equal(table.batch(last).rows, wanted)

    def test_a_table_smaller_than_a_batch_is_refused(self) -> None:
        with pytest.raises(ValueError, match="cannot fill a batch of 1000"):
            Table(frames(), 1000, 1, CPU)


def hidden_of(ids: Tensor, share: float, rows: float, alphabet: Alphabet, seed: int = 1) -> tuple:
    present = float((ids != alphabet.pad).float().mean())
    found = hide(ids, share, rows, present, alphabet, torch.Generator().manual_seed(seed))
    return found, present


CASES = [
    pytest.param("protein", PROTEIN, id="protein"),
    pytest.param("dna", dna_alphabet(1024), id="dna"),
]


class TestHide:
    @pytest.mark.parametrize(("what", "alphabet"), CASES)
    def test_specials_are_never_hidden_and_the_hidden_can_be_restored(
        self, what: str, alphabet: Alphabet
    ) -> None:
        ids = torch.from_numpy(getattr(frames(), what).astype(np.int64))
        found, _ = hidden_of(ids, 0.9, 1.0, alphabet)
        targets = found.targets[found.targets >= 0]
        assert len(targets) > 1000
        assert int(targets.min()) >= alphabet.first
        assert int(targets.max()) < alphabet.last
        special = (ids < alphabet.first) | (ids >= alphabet.last)
        assert torch.equal(found.ids[special], ids[special])
        there = found.targets >= 0
        restored = found.ids.flatten().scatter(0, found.places[there], found.targets[there]).view_as(ids)
        assert torch.equal(restored, ids)

    @pytest.mark.parametrize(("what", "alphabet"), CASES)
    @pytest.mark.parametrize("rows", [1.0, 0.5])
    def test_shares(self, what: str, alphabet: Alphabet, rows: float) -> None:
        ids = torch.from_numpy(getattr(frames(), what).astype(np.int64)).repeat(20, 1)
        found, present = hidden_of(ids, 0.2, rows, alphabet)
        assert len(found.places) == int(ids.numel() * present * 0.2 * rows)
        assert len(found.places.unique()) == len(found.places)
        touched = (found.places // ids.shape[1]).unique()
        assert len(touched) / len(ids) == pytest.approx(rows, abs=0.05)
        new = found.ids.flatten()[found.places]
        assert (new == alphabet.mask).float().mean() == pytest.approx(0.8, abs=0.03)
        kept = new == found.targets
        assert kept.float().mean() == pytest.approx(0.1, abs=0.03)
        others = new[(new != alphabet.mask) & ~kept]
        assert len(others) > 100
        assert int(others.min()) >= alphabet.first
        assert int(others.max()) < alphabet.last

    def test_a_batch_that_allows_too_few_has_fewer_targets(self) -> None:
        ids = torch.tensor([[0, 5, 6, 2], [0, 7, 2, 1]])
        found = hide(ids, 1.0, 1.0, 7 / 8, PROTEIN, torch.Generator().manual_seed(1))
        assert len(found.places) == 7
        assert sorted(found.targets.tolist()) == [-100] * 4 + [5, 6, 7]

    def test_it_depends_on_its_random_numbers_alone(self) -> None:
        ids = torch.from_numpy(frames().protein.astype(np.int64))
        (one, _), (same, _), (other, _) = (hidden_of(ids, 0.2, 0.5, PROTEIN, seed) for seed in (1, 1, 2))
        assert torch.equal(one.ids, same.ids)
        assert not torch.equal(one.ids, other.ids)

    def test_the_alphabets_are_those_of_the_tokenizers(self) -> None:
        assert (PROTEIN.mask, PROTEIN.pad) == (ESM2_MASK, ESM2_PAD)
        assert ESM2_ALPHABET_SIZE > AMINO_ACIDS[1] - AMINO_ACIDS[0] == 20
        assert dna_alphabet(99) == Alphabet(DNA_MASK, DNA_PAD, len(SPECIALS), 99)
        assert data().tokenizer.pad_id == DNA_PAD
        assert (DNA_MASK, DNA_PAD) == (4, 3)
