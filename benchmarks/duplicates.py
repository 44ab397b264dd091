"""How much faster a file is scored in which each read stands twice, with the cache of frames than without.

    python -m benchmarks.duplicates [--reads 2000] [--rounds 3] [--model nano] [--device auto] [--entries 100000]

The reads are windows of 500 bases of the bundled sample, all different, in a FASTA file. It is read and scored as by
`predict`, once with each read behind its twin and once with all reads twice in turn; the two ways of scoring take
turns, and medians are given, of the seconds that passed and of the processor's. The results must be equal to the last
bit. Loading the model is not counted. On processors that do other work too, OMP_NUM_THREADS=1 and the processor's
seconds say most.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from consumer.cli.demo.sample import sample_fasta
from consumer.config.settings import load_model_settings
from consumer.scoring.loading import load_engine
from virnucpro_core.models.engine import Engine
from virnucpro_core.scoring.frame_cache import with_cache
from virnucpro_core.scoring.model import Compute
from virnucpro_core.scoring.outcomes import ScoredRecord
from virnucpro_core.scoring.stream import score_records
from virnucpro_core.sequence.fasta import read_sequences
from virnucpro_core.sequence.tokens import DnaTokenizer

BASES = 500
SHIFT = 7
"""More than a codon: windows that are shifted by one base have frames in common."""


@dataclass(frozen=True)
class _Model:
    """What `score_records` needs of an engine, with another `score`."""

    expected_length: int
    tokenizer: DnaTokenizer
    score: Compute


def different_reads(count: int) -> list[str]:
    """Windows of the sample without a common frame; ValueError if it has fewer."""
    with sample_fasta() as path:
        sequences = [letters for _, _, letters in read_sequences(str(path))]
    windows = {
        sequence[start : start + BASES]: None
        for shift in range(0, BASES, SHIFT)
        for sequence in sequences
        for start in range(shift, len(sequence) - BASES + 1, BASES)
    }
    if len(windows) < count:
        raise ValueError(f"the sample has {len(windows)} different windows: ask for no more")
    return list(windows)[:count]


@dataclass(frozen=True)
class Round:
    """Seconds that passed and seconds of the processor, every record's result, and frames that were not computed."""

    wall_s: float
    cpu_s: float
    results: list[object]
    reused: int


def scored(path: Path, engine: Engine, entries: int) -> Round:
    """Read and score a file; RuntimeError if a read has no result."""
    reused: list[int] = []
    scorer = with_cache(engine, engine.info, entries, reused.append)
    model = _Model(engine.expected_length, engine.tokenizer, scorer.score)
    begun, cpu_begun = time.perf_counter(), time.process_time()
    outcomes = list(score_records(read_sequences(str(path)), model, engine.default_token_budget, 10**9))
    wall_s, cpu_s = time.perf_counter() - begun, time.process_time() - cpu_begun
    results = [asdict(outcome.result) for outcome in outcomes if isinstance(outcome, ScoredRecord)]
    if len(results) < len(outcomes):
        raise RuntimeError("a read was left out")
    return Round(wall_s, cpu_s, list(results), sum(reused))


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--reads", type=int, default=2000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--model", default="nano")
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--entries", type=int, default=100_000)
    chosen = arguments.parse_args()
    engine = load_engine(load_model_settings(os.environ, model=chosen.model, device=chosen.device))
    reads = different_reads(chosen.reads)
    orders = {
        "each read behind its twin": [read for read in reads for _ in range(2)],
        "all reads twice in turn": reads * 2,
    }
    print(f"{engine.info.model_id}, {engine.info.device}, {engine.info.precision}: {2 * len(reads):,} reads")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reads.fasta"
        for name, order in orders.items():
            path.write_text("".join(f">r{number}\n{letters}\n" for number, letters in enumerate(order)))
            without, with_it = [], []
            for _ in range(chosen.rounds):
                without.append(scored(path, engine, 0))
                with_it.append(scored(path, engine, chosen.entries))
                if without[-1].results != with_it[-1].results:
                    raise RuntimeError("the results differ with the cache")
            print(f"{name}: {with_it[-1].reused:,} frames were not computed")
            for what in ("wall_s", "cpu_s"):
                before, after = (
                    statistics.median(getattr(each, what) for each in rounds) for rounds in (without, with_it)
                )
                print(
                    f"  {what}: {before:.1f} without, {after:.1f} with the cache, {before / after:.2f} times as fast"
                )


if __name__ == "__main__":
    main()
