"""How much faster a file is scored in which each read stands twice, with the cache of frames than without.

    python -m benchmarks.duplicates [--reads 2000] [--rounds 3] [--model nano] [--device auto] [--entries 100000]

The reads are windows of 500 bases of the bundled sample, all different, in a FASTA file. It is read and scored as by
`predict`, once with each read behind its twin and once with all reads twice in turn; the two ways of scoring take
turns, and medians are given. The results must be equal to the last bit. Loading the model is not counted.
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


@dataclass(frozen=True)
class _Model:
    """What `score_records` needs of an engine, with another `score`."""

    expected_length: int
    tokenizer: DnaTokenizer
    score: Compute


def different_reads(count: int) -> list[str]:
    """Windows of the sample, none twice; ValueError if it has fewer."""
    with sample_fasta() as path:
        sequences = [letters for _, _, letters in read_sequences(str(path))]
    windows = {
        sequence[start : start + BASES]: None
        for shift in range(BASES)
        for sequence in sequences
        for start in range(shift, len(sequence) - BASES + 1, BASES)
    }
    if len(windows) < count:
        raise ValueError(f"the sample has {len(windows)} different windows: ask for no more")
    return list(windows)[:count]


def scored(path: Path, engine: Engine, entries: int) -> tuple[float, list[object], int]:
    """Seconds, every record's result, and the frames that were not computed."""
    reused: list[int] = []
    scorer = with_cache(engine, engine.info, entries, reused.append)
    model = _Model(engine.expected_length, engine.tokenizer, scorer.score)
    begun = time.perf_counter()
    outcomes = list(score_records(read_sequences(str(path)), model, engine.default_token_budget, 10**9))
    seconds = time.perf_counter() - begun
    results = [asdict(outcome.result) for outcome in outcomes if isinstance(outcome, ScoredRecord)]
    if len(results) < len(outcomes):
        raise RuntimeError("a read was left out")
    return seconds, list(results), sum(reused)


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
            rounds: dict[int, list[float]] = {0: [], chosen.entries: []}
            for _ in range(chosen.rounds):
                plain_s, expected, _ = scored(path, engine, 0)
                cached_s, found, reused = scored(path, engine, chosen.entries)
                if found != expected:
                    raise RuntimeError("the results differ with the cache")
                rounds[0].append(plain_s)
                rounds[chosen.entries].append(cached_s)
            without, with_it = (statistics.median(seconds) for seconds in rounds.values())
            print(
                f"{name}: {without:.1f} s without, {with_it:.1f} s with the cache, {without / with_it:.2f} times as "
                f"fast; {reused:,} frames were not computed"
            )


if __name__ == "__main__":
    main()
