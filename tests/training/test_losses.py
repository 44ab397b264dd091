"""What training minimises, with labels and without."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.support.training_fixture import data, tiny_recipe
from training.data.batches import AMINO_ACIDS, Table
from training.data.corpus import VALIDATION
from training.data.make_tables import evaluated_part
from training.model.losses import (
    UnlabelledLosses,
    chunk_margins,
    classification_loss,
    codons_of,
    hidden_token_loss,
    pair_loss,
    targets,
)
from training.model.network import CODONS, RESIDUES, Network

CPU = torch.device("cpu")
rows = st.lists(st.lists(st.integers(-1, 4), min_size=6, max_size=6), min_size=1, max_size=4)


@given(st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=4), min_size=1, max_size=5))
def test_a_chunk_s_margin_has_the_sign_of_virnucpro_s_verdict(chunks: list[list[float]]) -> None:
    margins = torch.tensor([margin for chunk in chunks for margin in chunk], dtype=torch.float64)
    frame_chunk = torch.tensor([number for number, chunk in enumerate(chunks) for _ in chunk])
    found = chunk_margins(margins, frame_chunk, len(chunks) + 1).tolist()
    assert found.pop() == 0  # of a number that no frame has
    for margin, chunk in zip(found, chunks, strict=True):
        assert margin == pytest.approx((max(chunk) + min(chunk)) / 2, abs=1e-12)
        virus = [1 / (1 + math.exp(-m)) for m in chunk]
        highest_virus, highest_others = max(virus), max(1 - score for score in virus)
        assert (margin >= 0) == (highest_virus >= highest_others) or abs(
            highest_virus - highest_others
        ) < 1e-9


def test_targets_are_smoothed() -> None:
    assert targets(torch.tensor([1.0, 0.0]), 0.2).tolist() == pytest.approx([0.9, 0.1])


def test_the_loss_is_half_of_frames_and_half_of_chunks() -> None:
    margins, label = torch.tensor([2.0, -1.0, -0.5]), torch.tensor([1.0, 1.0, 0.0])
    frame_chunk = torch.tensor([0, 0, 1])
    frames = F.binary_cross_entropy_with_logits(margins, targets(label, 0.2))
    chunks = F.binary_cross_entropy_with_logits(torch.tensor([0.5, -0.5]), targets(label[1:], 0.2))
    found = classification_loss(margins, frame_chunk, label, 0.2)
    assert found.item() == pytest.approx((frames + chunks).item() / 2)


def test_hidden_tokens_below_zero_do_not_count() -> None:
    assert hidden_token_loss(torch.zeros(3, 8), torch.tensor([0, -100, 7])).item() == pytest.approx(
        math.log(8)
    )
    assert hidden_token_loss(torch.zeros(2, 8), torch.tensor([-100, -100])).item() == 0


@given(rows, st.integers(0, 2**31))
def test_the_loss_of_pairs_is_the_mean_over_neighbours_that_are_both_there(
    symbols: list[list[int]], seed: int
) -> None:
    logits = torch.randn(len(symbols), 25, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = [
        -math.log(math.exp(line[a * 5 + b]) / sum(map(math.exp, line)))
        for row, line in zip(symbols, logits.tolist(), strict=True)
        for a, b in pairwise(row)
        if a >= 0 and b >= 0
    ]
    found = pair_loss(logits, torch.tensor(symbols), 5).item()
    assert found == pytest.approx(sum(expected) / len(expected) if expected else 0.0)


def test_codons_are_numbered_in_the_order_of_their_bases() -> None:
    tokenizer, codons = data().tokenizer, codons_of(data().tokenizer_file)
    assert len(codons) == tokenizer.vocabulary_size
    ids = tokenizer.encode(["AAA", "AAC", "ACA", "CAA", "TTT", "ACGT"])
    assert [codons[i[1]].item() for i in ids] == [0, 1, 4, 16, 63, 6]
    assert codons[ids[-1][-2]] == -1  # the letter that is left over
    assert sorted(codons[codons >= 0].tolist()) == list(range(CODONS))


class TestUnlabelledLosses:
    @pytest.fixture
    def table(self) -> Table:
        corpus = data().corpus
        frames = evaluated_part(corpus, data().tokenizer, 500, corpus.records_of(VALIDATION)[:2], False)
        return Table(frames, len(frames), 1, CPU)

    @pytest.fixture
    def losses_of(self, table: Table) -> UnlabelledLosses:
        return UnlabelledLosses(table, codons_of(data().tokenizer_file), (0.5, 0.5), 1.0)

    @pytest.fixture
    def network(self) -> Network:
        torch.manual_seed(2)
        return Network(tiny_recipe().shape, data().tokenizer.vocabulary_size)

    def test_pairs_are_counted_in_the_frames_as_they_are(
        self, table: Table, losses_of: UnlabelledLosses, network: Network
    ) -> None:
        """The loss is what the pairs of the undisturbed ids give, though the features are of hidden tokens."""
        codons = codons_of(data().tokenizer_file)
        batch = table.batch(0)
        features, losses = losses_of(network, batch, torch.Generator().manual_seed(1))
        of_residues, of_codons = (logits.log_softmax(1) for logits in network.predict_pairs(features))
        pairs: dict[str, list[float]] = {"codons": [], "residues": []}
        for row in range(table.size):
            words = [int(codons[i]) for i in batch.dna[row].tolist()]
            pairs["codons"] += [
                of_codons[row, a * CODONS + b].item() for a, b in pairwise(words) if min(a, b) >= 0
            ]
            letters = [
                i - AMINO_ACIDS[0] if i in range(*AMINO_ACIDS) else -1 for i in batch.protein[row].tolist()
            ]
            pairs["residues"] += [
                of_residues[row, a * RESIDUES + b].item() for a, b in pairwise(letters) if min(a, b) >= 0
            ]
        assert losses.codon_pairs.item() == pytest.approx(-np.mean(pairs["codons"]), rel=1e-5)
        assert losses.residue_pairs.item() == pytest.approx(-np.mean(pairs["residues"]), rel=1e-5)

    def test_every_loss_has_its_weight(
        self, table: Table, losses_of: UnlabelledLosses, network: Network
    ) -> None:
        _, losses = losses_of(network, table.batch(0), torch.Generator().manual_seed(1))
        hidden = losses.protein + losses.dna
        pairs = losses.residue_pairs + losses.codon_pairs
        assert losses.weighted(0.5, 2.0).item() == pytest.approx((0.5 * hidden + 2 * pairs).item())

    def test_all_that_trains_learns_from_it_but_the_head(
        self, table: Table, losses_of: UnlabelledLosses, network: Network
    ) -> None:
        losses_of(network, table.batch(0), torch.Generator().manual_seed(1))[1].weighted(1.0, 1.0).backward()
        of_protein, of_dna, of_head = network.parts
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in (*of_protein, *of_dna))
        assert all(p.grad is None for p in of_head)
