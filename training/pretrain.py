"""Teaches both encoders to fill in hidden tokens of the training genomes' open frames.

    python -m training.pretrain --data DATA --out OUT

Only the split `train` is seen, so that what is taught afterwards can be measured on the dev split. Writes
OUT/encoders-KEY.pt, and goes on where an interrupted run stopped.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from training.batches import PROTEIN, Batch, Table, dna_alphabet, hide
from training.loss import hidden_token_loss
from training.network import Network
from training.optimise import (
    Checkpoint,
    MovingAverage,
    adamw,
    learning_rate,
    restore,
    take_step,
    training_state,
)
from training.progress import bar, log
from training.recipe import Pretrain
from training.workspace import TRIAL, Workspace, options, workspace

LENGTH = 500
LOG_EVERY = 200
WATCHED = 1024


def losses_of(
    network: Network,
    batch: Batch,
    shares: tuple[float, float],
    rows: float,
    table: Table,
    random: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Features of the disturbed batch, and the losses of its hidden amino acids and nucleotide tokens."""
    vocabulary = len(network.dna_lm_bias)
    protein = hide(batch.protein, shares[0], rows, table.present[0], PROTEIN, random)
    dna = hide(batch.dna, shares[1], rows, table.present[1], dna_alphabet(vocabulary), random)
    hidden = network.encode(protein.ids, dna.ids)
    features = network.features(protein.ids, dna.ids, *hidden)
    logits = network.predict_tokens(*hidden, protein.places, dna.places)
    return (
        features,
        hidden_token_loss(logits[0], protein.targets),
        hidden_token_loss(logits[1], dna.targets),
    )


def random_of(seed: int, step: int, device: torch.device) -> torch.Generator:
    """The random numbers of one step: the same when the run is repeated or taken up again."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)


def encoders_file(work: Workspace) -> Checkpoint:
    """Where the encoders of this recipe are kept."""
    key = work.key("shape", "draws", "pretrain")
    return Checkpoint(work.kept / f"encoders-{key}.pt", key)


def pretrain(work: Workspace) -> None:
    """Train and save the encoders, unless that is done."""
    recipe = work.recipe.pretrain
    steps = recipe.optimiser
    checkpoint = encoders_file(work)
    state = checkpoint.load()
    if state is not None and state["step"] == steps.steps:
        return
    table = Table(work.training(LENGTH), steps.frames, steps.seed, work.device)
    watched = watched_table(work)
    torch.manual_seed(steps.seed)
    network = work.network()
    average = MovingAverage(network, steps.average)
    optimiser = adamw(network, steps, (1.0, recipe.dna_rate, 1.0))
    first = 0 if state is None else restore(state, network, average, optimiser)
    network.train()
    started = time.monotonic()
    for step in bar(range(first, steps.steps), "pre-training"):
        if checkpoint.due():
            checkpoint.save(training_state(step, network, average, optimiser))
        random = random_of(steps.seed, step, work.device)
        shares = (recipe.protein_masked, recipe.dna_masked)
        _, of_protein, of_dna = losses_of(network, table.batch(step), shares, 1.0, table, random)
        take_step(optimiser, network, of_protein + of_dna, learning_rate(steps, step))
        average.update(network)
        if step % LOG_EVERY == LOG_EVERY - 1:
            known = {"protein": round(of_protein.item(), 4), "dna": round(of_dna.item(), 4)}
            if watched is not None:
                known |= held_out(average.network, watched, recipe)
            log(pretraining=True, step=step + 1, seconds=round(time.monotonic() - started, 1), **known)
    checkpoint.save(training_state(steps.steps, network, average, optimiser))


def watched_table(work: Workspace) -> Table | None:
    """Some frames of the dev split, to see how well hidden tokens of unseen genomes are filled in."""
    dev = work.dev(LENGTH)
    if dev is None or len(dev) == 0:
        return None
    rows = np.random.default_rng(1).permutation(len(dev))[:WATCHED]
    owner = np.arange(len(rows))
    some = replace(
        dev,
        protein=dev.protein[rows],
        dna=dev.dna[rows],
        frame_chunk=owner,
        chunk_record=dev.chunk_record[dev.frame_chunk[rows]],
    )
    return Table(some, len(rows), 1, work.device)


@torch.no_grad()
def held_out(network: Network, table: Table, recipe: Pretrain) -> dict[str, float]:
    """The losses on frames of the dev split."""
    random = random_of(0, 0, table.device)
    shares = (recipe.protein_masked, recipe.dna_masked)
    _, protein, dna = losses_of(network, table.batch(0), shares, 1.0, table, random)
    return {"dev_protein": round(protein.item(), 4), "dev_dna": round(dna.item(), 4)}


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    pretrain(workspace(options(__doc__).parse_args(arguments), TRIAL))
    return 0


if __name__ == "__main__":
    sys.exit(main())
