"""Trains the bundled nano model and writes its bundle.

    python -m training.train --data DIR --out DIR --seconds 480

DIR of --data holds genomes.npz and tokenizer.json (training.prepare_data, training.train_tokenizer). Weights
are learnt from the training split alone. The dev split picks the moment of the run whose averaged weights are
kept. The validation split is read once, when the bundle is written and measured. The bundle is OUT/nano.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from training.corpus import DEV, VALIDATION, Corpus
from training.evaluate import measure
from training.export import data_list, export
from training.loss import Weights, classification_loss, masked_token_loss
from training.metrics import evaluate
from training.network import Batch, Network
from training.optimise import MovingAverage, learning_rate, parameter_groups, recalibrate
from training.shards import EvaluationSet, Sampling, Shard, Workers
from virnucpro_core.models.engine import Engine
from virnucpro_core.tokens import DnaTokenizer

CLEAN_SHARDS = 12
LOG_EVERY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the outcome, but for the data and the machine.

    seconds: of training, in which the learning rate goes to zero; evaluations: looks at the dev split, evenly
    spread; peak_rate: of AdamW; average: decay of the moving average of the weights, per step.
    """

    seed: int
    seconds: float
    evaluations: int
    sampling: Sampling
    weights: Weights = field(default_factory=Weights)
    peak_rate: float = 1e-3
    warm_up_steps: int = 300
    weight_decay: float = 0.05
    dropout: float = 0.2
    average: float = 0.999
    clip: float = 1.0


def log(**values: Any) -> None:
    """One JSON line on stdout."""
    print(json.dumps(values), flush=True)


class Trainer:
    """One run: the network, its moving average, and the best of it so far."""

    def __init__(self, recipe: Recipe, vocabulary: int, device: torch.device) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.device = recipe, device
        backend = "varlen" if device.type == "cuda" else "sdpa"
        self.network = Network(vocabulary, recipe.dropout, backend).to(device)
        self.average = MovingAverage(self.network, recipe.average)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.network, recipe.weight_decay), lr=0.0, betas=(0.9, 0.98), fused=True
        )
        self.steps = 0
        self.best: dict[str, Any] = {}
        self._best_state: dict[str, torch.Tensor] = {}

    def step(self, shard: Shard, progress: float) -> torch.Tensor:
        """One step on one shard; returns the four losses, detached, on the device."""
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe.peak_rate, progress, self.steps, recipe.warm_up_steps)
        batch = Batch.of(shard, self.device)
        self.network.train()
        logits, proteins, dna = self.network(batch)
        verdict = classification_loss(logits, batch.frame_chunk, batch.chunk_label, recipe.weights)
        of_protein = masked_token_loss(proteins, batch.protein_targets)
        of_dna = masked_token_loss(dna, batch.dna_targets)
        loss = verdict + recipe.weights.protein_mlm * of_protein + recipe.weights.dna_mlm * of_dna
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip)
        self.optimizer.step()
        self.average.update(self.network)
        self.steps += 1
        return torch.stack([loss, verdict, of_protein, of_dna]).detach()

    def look(self, corpus: Corpus, dev: EvaluationSet, clean: list[Batch], elapsed: float) -> None:
        """Measure the averaged weights on the dev split, and keep them if they are the best so far."""
        network = self.average.network
        with torch.no_grad():
            recalibrate(network.head, [network.encode(batch.protein, batch.dna)[0] for batch in clean])
        scores = network.score(dev.frames, self.device)
        figures = evaluate(scores, dev.layout, corpus.labels, corpus.groups)
        names = ("chunk_auroc", "chunk_accuracy", "record_auroc", "frame_auroc")
        kept = {name: figures[name] for name in names}
        better = not self._best_state or kept["chunk_auroc"] > self.best["chunk_auroc"]
        if better:
            self.best = {"step": self.steps, "seconds": round(elapsed), **kept}
            self._best_state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        log(dev=kept, step=self.steps, seconds=round(elapsed, 1), best=better)

    def take_best(self) -> Network:
        """The averaged network with the best weights."""
        self.average.network.load_state_dict(self._best_state)
        return self.average.network


def fit(trainer: Trainer, workers: Workers, corpus: Corpus) -> float:
    """Train for the recipe's seconds; returns the seconds taken, the looks at the dev split included."""
    recipe = trainer.recipe
    dev = workers.evaluation_set(corpus.records_of(DEV))
    clean = [Batch.of(shard, trainer.device) for shard in workers.clean_shards(CLEAN_SHARDS)]
    log(dev_chunks=dev.chunks, dev_frames=len(dev.frames), device=str(trainer.device))
    started = logged = time.monotonic()
    looks = 0
    for shard in workers.shards():
        elapsed = time.monotonic() - started
        if elapsed * recipe.evaluations >= (looks + 1) * recipe.seconds or elapsed >= recipe.seconds:
            looks += 1
            trainer.look(corpus, dev, clean, elapsed)
            if elapsed >= recipe.seconds:
                break
        losses = trainer.step(shard, elapsed / recipe.seconds)
        if time.monotonic() - logged >= LOG_EVERY_SECONDS:
            logged = time.monotonic()
            names = ("loss", "verdict", "protein_mlm", "dna_mlm")
            values = dict(zip(names, [round(x, 4) for x in losses.tolist()], strict=True))
            log(step=trainer.steps, seconds=round(elapsed, 1), **values)
    return time.monotonic() - started


def finish(
    trainer: Trainer, seconds: float, corpus: Corpus, options: argparse.Namespace, workers: Workers
) -> None:
    """Store the best weights, measure what was stored, and write the bundle with the figures."""
    network = trainer.take_best()
    recipe = trainer.recipe
    hardware = torch.cuda.get_device_name() if trainer.device.type == "cuda" else "CPU"
    training = {
        "command": options.command,
        "finished": datetime.now(UTC).strftime("%Y-%m-%d"),
        "seconds": round(seconds),
        "steps": trainer.steps,
        "hardware": hardware,
        "recipe": asdict(recipe),
        "chosen_on_dev": trainer.best,
        "data": data_list(corpus),
    }
    tokenizer, size = options.data / "tokenizer.json", recipe.sampling.chunk_size
    unmeasured = options.out / "unmeasured"
    shutil.rmtree(unmeasured, ignore_errors=True)
    bundle = export(network, unmeasured, tokenizer, size, training, {})
    engine = Engine(bundle, str(trainer.device), options.precision)
    chosen = workers.evaluation_set(corpus.records_of(VALIDATION))
    figures = measure(engine, corpus, chosen)
    validation = {"split": VALIDATION, "device": hardware, **figures}
    export(network, options.out / "nano", tokenizer, size, training, validation)
    shutil.rmtree(unmeasured)
    log(validation={name: value for name, value in validation.items() if name != "by_group"})


def parse(arguments: list[str]) -> tuple[Recipe, argparse.Namespace]:
    """The recipe, and where to read, write and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="of training; measuring comes on top")
    parser.add_argument("--workers", type=int, default=14, help="processes that prepare batches")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32", help="in which the stored weights are measured")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--evaluations", type=int, default=12)
    parser.add_argument("--peak-rate", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--chunks", type=int, default=512, help="of a batch")
    parser.add_argument("--mutation", type=float, default=0.1)
    parser.add_argument("--masked", type=float, default=0.5)
    parser.add_argument("--mask-rate", type=float, default=0.15)
    parser.add_argument("--balance", type=float, default=0.5)
    parser.add_argument("--mlm", type=float, default=0.1, help="weight of each language-model loss")
    options = parser.parse_args(arguments)
    places = {str(options.data): "DATA", str(options.out): "OUT"}
    options.command = " ".join(["python -m training.train", *(places.get(word, word) for word in arguments)])
    sampling = Sampling(
        options.seed,
        options.chunks,
        mutation=options.mutation,
        masked=options.masked,
        mask_rate=options.mask_rate,
        balance=options.balance,
    )
    recipe = Recipe(
        options.seed,
        options.seconds,
        options.evaluations,
        sampling,
        Weights(protein_mlm=options.mlm, dna_mlm=options.mlm),
        peak_rate=options.peak_rate,
        weight_decay=options.weight_decay,
        dropout=options.dropout,
    )
    return recipe, options


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    recipe, options = parse(sys.argv[1:] if arguments is None else arguments)
    torch.set_float32_matmul_precision("high")
    corpus = Corpus.load(options.data / "genomes.npz")
    vocabulary = DnaTokenizer(options.data / "tokenizer.json").vocabulary_size
    trainer = Trainer(recipe, vocabulary, torch.device(options.device))
    with Workers(options.data, recipe.sampling, options.workers) as workers:
        seconds = fit(trainer, workers, corpus)
        # TF32 was for training: what is stored is measured as the service would compute it.
        torch.set_float32_matmul_precision("highest")
        finish(trainer, seconds, corpus, options, workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
