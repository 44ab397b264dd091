"""Teaches both encoders what can be learned without labels (training.model.losses) of the training genomes' frames.

    python -m training.runs.pretrain --data DATA --out OUT

Only the genomes of the phase are seen, so that what is taught afterwards can be measured on others: for a trial and for
the final model those of the split `train`. Writes OUT/encoders-KEY.pt, in the other phases OUT/PHASE/encoders-KEY.pt,
and goes on where an interrupted run stopped.
"""

from __future__ import annotations

import sys
import time
from dataclasses import fields, replace

import numpy as np
import torch

from training.data.batches import Table
from training.model.losses import Losses, UnlabelledLosses
from training.model.network import Network
from training.model.optim import (
    Checkpoint,
    MovingAverage,
    Optimisers,
    learning_rate,
    restore,
    take_step,
    training_state,
)
from training.progress import log, tracked
from training.runs.workspace import TRIAL, Workspace, options, phase_name, workspace

LENGTH = 500
LOG_EVERY = 200
WATCHED = 1024


def random_of(seed: int, step: int, device: torch.device) -> torch.Generator:
    """The random numbers of one step: the same when the run is repeated or taken up again."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)


def encoders_file(work: Workspace) -> Checkpoint:
    """The checkpoint of this recipe's encoders."""
    key = work.key("shape", "data", "pretrain")
    folder = work.cache if work.pretrained_in == TRIAL else work.cache / work.phase
    return Checkpoint(folder / f"encoders-{key}.pt", key)


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
    average = MovingAverage(network, steps.ema_decay)
    optimisers = Optimisers(network, steps, (1.0, recipe.dna_lr_ratio, 1.0))
    first = 0 if state is None else restore(state, network, average, optimisers)
    network.train()
    started = time.monotonic()
    losses_of = unlabelled(work, table)
    for step in tracked(range(first, steps.steps), "pre-training", steps.steps - first):
        if checkpoint.due():
            checkpoint.save(training_state(step, network, average, optimisers))
        random = random_of(steps.seed, step, work.device)
        _, losses = losses_of(network, table.batch(step), random)
        loss = losses.weighted(recipe.lm_weight, recipe.pairs_weight)
        take_step(optimisers, network, loss, learning_rate(steps, step))
        average.update(network)
        if step % LOG_EVERY == LOG_EVERY - 1:
            log(
                pretraining=True, step=step + 1, seconds=round(time.monotonic() - started, 1), **known(losses)
            )
            if watched is not None:
                log(pretraining=True, step=step + 1, of="dev", **held_out(work, average.network, watched))
    checkpoint.save(training_state(steps.steps, network, average, optimisers))


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


def unlabelled(work: Workspace, table: Table) -> UnlabelledLosses:
    """What is minimised: every frame has hidden tokens."""
    recipe = work.recipe.pretrain
    return UnlabelledLosses(table, work.codons, (recipe.protein_masked, recipe.dna_masked), 1.0)


def known(losses: Losses) -> dict[str, float]:
    """As a line of the log."""
    return {field.name: round(getattr(losses, field.name).item(), 4) for field in fields(losses)}


@torch.no_grad()
def held_out(work: Workspace, network: Network, table: Table) -> dict[str, float]:
    """The losses on frames of the dev split."""
    _, losses = unlabelled(work, table)(network, table.batch(0), random_of(0, 0, table.device))
    return known(losses)


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = options(__doc__)
    parser.add_argument("--phase", type=phase_name, default=TRIAL)
    given = parser.parse_args(arguments)
    pretrain(workspace(given, given.phase))
    return 0


if __name__ == "__main__":
    sys.exit(main())
