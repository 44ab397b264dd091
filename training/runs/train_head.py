"""Trains the classifier, and the encoders with it, on frames of known origin.

    python -m training.runs.train_head --data DATA --out OUT --phase trial --length 500

Starts from the encoders of training.runs.pretrain and writes OUT/PHASE/model-LENGTH.pt with a report beside it.
The recipe may want an ensemble: members from one start, each trained on the chunks in another order, whose
weights are then averaged (model soups, Wortsman et al. 2022, arXiv:2203.05482; DiWA, Rame et al. 2022,
arXiv:2205.09739, for what is unlike the training data). In the trial phase the dev split is measured along the
way, and the temperature comes from it; the final phase trains on that split too. Where a fold is left out, the
margins of its frames are written to OUT/PHASE/left-out-LENGTH.npy. What is done already is not done again.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.data.batches import Table
from training.data.corpus import VALIDATION
from training.data.frame_table import Frames
from training.model.losses import UnlabelledLosses, classification_loss
from training.model.network import Network
from training.model.optim import (
    Checkpoint,
    MovingAverage,
    Optimisers,
    learning_rate,
    mean_of,
    restore,
    take_step,
    training_state,
)
from training.progress import log, tracked
from training.reports.dev_metrics import dev_metrics, dev_temperature, piece_auroc
from training.runs.pretrain import encoders_file, random_of
from training.runs.workspace import TRIAL, Workspace, options, phase_name, workspace
from virnucpro_core.models.classifier import recalibrate

UNMASKED_BATCHES = 16  # that BatchNorm's statistics are taken of
LOG_EVERY = 100


def key_of(work: Workspace, length: int) -> str:
    """Names everything that decides the models of a phase and a length."""
    return f"{work.key('shape', 'data', 'pretrain', 'head')}-{work.phase}-{length}"


def member_file(work: Workspace, length: int, number: int) -> Path:
    """The file of member `number` of the ensemble, from 1 on."""
    return work.folder / f"member-{number}-{length}.pt"


def model_file(work: Workspace, length: int) -> Path:
    """The file of the mean of the members."""
    return work.folder / f"model-{length}.pt"


def report_file(work: Workspace, length: int) -> Path:
    """The report: metrics of the training and on the dev split; written when all of it is done."""
    return work.folder / f"model-{length}.json"


def margins_file(work: Workspace, length: int) -> Path:
    """The margins of the frames of the fold that was left out, float32 [frames], in the order of their table."""
    return work.folder / f"left-out-{length}.npy"


class HeadTraining:
    """The model for chunks of one length: its members, one after the other, and their mean.

    Raises:
        FileNotFoundError: the encoders of this recipe are not there.
    """

    def __init__(self, work: Workspace, length: int) -> None:
        self.work, self.length, self.recipe = work, length, work.recipe.head
        self.key = key_of(work, length)
        encoders = encoders_file(work).load()
        if encoders is None or encoders["step"] < work.recipe.pretrain.optimiser.steps:
            raise FileNotFoundError(
                f"{work.cache} has no encoders of this recipe: run training.runs.pretrain first"
            )
        self.encoders = {k: v for k, v in encoders["average"].items() if not k.startswith("head.")}
        steps = self.recipe.optimiser
        self.table = Table(work.training(length), steps.frames, steps.seed, work.device)
        masked = (self.recipe.masked, self.recipe.masked)
        self.unlabelled = UnlabelledLosses(self.table, work.codons, masked, self.recipe.masked_frames)
        self.label = torch.from_numpy(work.corpus.labels.astype(np.float32)).to(work.device)
        self.dev = work.dev(length)
        self.network = work.network(self.recipe.dropout)  # one for all members: it is compiled once
        self.curves: dict[str, list[dict[str, Any]]] = {}

    def member(self, number: int) -> Network:
        """Train one model from the start on, unless that is done; the averaged network, settled.

        number: from 1 on; names the member's order of chunks and its random numbers.
        """
        name, steps = f"member {number}", self.recipe.optimiser.steps
        path = member_file(self.work, self.length, number)
        finished = Checkpoint(path, self.key)
        unfinished = Checkpoint(path.with_suffix(".unfinished"), self.key)
        seed = self.recipe.optimiser.seed * 1000 + number
        self.table.reseed(seed)
        self.start()
        average = MovingAverage(self.network, self.recipe.optimiser.ema_decay)
        if (done := finished.load()) is not None:
            average.network.load_state_dict(done["network"])
            self.curves[name] = done["curve"]
            return average.network
        ratio = self.recipe.encoder_lr_ratio
        optimisers = Optimisers(self.network, self.recipe.optimiser, (ratio, ratio, 1.0))
        state = unfinished.load()
        first = 0 if state is None else restore(state, self.network, average, optimisers)
        curve = self.curves[name] = [] if state is None else state["curve"]
        title = f"{name}, {self.length} bp, {self.work.phase}"
        for step in tracked(range(first, steps), title, steps - first):
            if unfinished.due():
                unfinished.save(training_state(step, self.network, average, optimisers) | {"curve": curve})
            loss = self.loss(seed, step)
            take_step(optimisers, self.network, loss, learning_rate(self.recipe.optimiser, step))
            average.update(self.network)
            about = {"member": name, "phase": self.work.phase, "length": self.length}
            if self.dev is not None and is_eval_step(step, steps, self.recipe.evals):
                margins = self.settle(average.network).score(self.dev, self.work.device)
                metrics = dev_metrics(margins, self.dev, self.work.corpus)
                curve.append({"step": step + 1, "loss": round(loss.item(), 4), **metrics})
                log(**about, **curve[-1])
            elif step % LOG_EVERY == LOG_EVERY - 1:
                log(**about, step=step + 1, loss=round(loss.item(), 4))
        network = self.settle(average.network)
        finished.save({"network": network.state_dict(), "curve": curve})
        unfinished.remove()
        return network

    def start(self) -> None:
        """Set the network to what every member starts from: the encoders of training.runs.pretrain, a new head.

        Weights can be averaged because members have this much in common.
        """
        torch.manual_seed(self.recipe.optimiser.seed)
        new = Network(self.network.shape, self.work.vocabulary).state_dict()
        self.network.load_state_dict(new | self.encoders)

    def loss(self, seed: int, step: int) -> Tensor:
        """Of one batch."""
        recipe = self.recipe
        torch.manual_seed(seed * 1_000_003 + step)  # of dropout
        random = random_of(seed, step, self.work.device)
        batch = self.table.batch(step)
        self.network.train()
        features, unlabelled = self.unlabelled(self.network, batch, random)
        logits = self.network.head(self.network.dropout(features))
        verdict = classification_loss(
            logits[:, 1] - logits[:, 0],
            batch.frame_chunk,
            self.label[batch.frame_record],
            recipe.smoothing,
        )
        return verdict + unlabelled.weighted(recipe.lm_weight, recipe.pairs_weight)

    def settle(self, network: Network) -> Network:
        """`network` with BatchNorm's statistics for exactly its weights, of training frames without a mask."""
        with torch.no_grad():
            batches = [self.table.batch(i) for i in range(min(UNMASKED_BATCHES, self.table.steps))]
            features = (
                network.features(b.protein, b.dna, *network.encode(b.protein, b.dna)) for b in batches
            )
            recalibrate(network.head, features)
        return network

    def run(self) -> Network:
        """Train all members and write the report; their mean, which is kept."""
        started = time.monotonic()
        members = [self.member(number) for number in range(1, self.recipe.ensemble + 1)]
        network = self.settle(mean_of(members))
        Checkpoint(model_file(self.work, self.length), self.key).save({"network": network.state_dict()})
        report: dict[str, Any] = {"key": self.key, "seconds": round(time.monotonic() - started, 1)}
        if self.dev is not None:
            report |= self._on_dev(network, self.dev)
        if (left_out := self.work.left_out(self.length)) is not None:
            np.save(margins_file(self.work, self.length), network.score(left_out, self.work.device))
        report["curves"] = self.curves
        path = report_file(self.work, self.length)
        path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
        return network

    def _on_dev(self, network: Network, dev: Frames) -> dict[str, Any]:
        """The metrics of the mean of the members, its temperature, and the AUROC of 5 kb pieces; and, for the
        record alone, the AUROC of the validation split's chunks: recipes are chosen by dev."""
        corpus, margins = self.work.corpus, network.score(dev, self.work.device)
        found: dict[str, Any] = {
            "model": dev_metrics(margins, dev, corpus),
            "temperature": dev_temperature(margins, dev, corpus),
        }
        pieces = self.work.dev(self.length, pieces=True)
        if pieces is not None and len(pieces):
            found["pieces"] = piece_auroc(network.score(pieces, self.work.device), pieces, corpus)
        validation = self.work.held_out(VALIDATION, self.length)
        found["validation"] = dev_metrics(network.score(validation, self.work.device), validation, corpus)[
            "all"
        ]
        return found


def is_eval_step(step: int, steps: int, evals: int) -> bool:
    """True for the `evals` of the steps 0..steps-1 after which dev is measured, the last one among them."""
    return (step + 1) * evals // steps > step * evals // steps


def train_head(work: Workspace, length: int) -> tuple[Network, dict[str, Any]]:
    """The model for chunks of `length`, settled, and its report: trained, unless that is done."""
    path = report_file(work, length)
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    done = Checkpoint(model_file(work, length), key_of(work, length)).load()
    if done is None or report.get("key") != key_of(work, length):
        network = HeadTraining(work, length).run()
        return network, json.loads(path.read_text())
    network = Network(work.recipe.shape, work.vocabulary).to(work.device).eval()
    network.load_state_dict(done["network"])
    return network, report


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = options(__doc__)
    parser.add_argument("--phase", type=phase_name, default=TRIAL)
    parser.add_argument("--length", type=int, default=500, help="bases of a chunk")
    given = parser.parse_args(arguments)
    train_head(workspace(given, given.phase), given.length)
    return 0


if __name__ == "__main__":
    sys.exit(main())
