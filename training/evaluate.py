"""How good a bundle is on a split of the corpus, measured through the service's own engine.

    python -m training.evaluate --data DIR [--bundle nano] [--split validation] [--records N] [--device cpu]

Prints the figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.corpus import SPLITS, VALIDATION, Corpus
from training.metrics import evaluate
from training.shards import EvaluationSet, evaluation_part
from virnucpro_core.models.bundle import Bundle, find_bundle
from virnucpro_core.models.engine import Engine
from virnucpro_core.packing import how_many_fit
from virnucpro_core.prepare import PreparedFrame


def engine_scores(engine: Engine, frames: Sequence[PreparedFrame]) -> npt.NDArray[np.float32]:
    """Scores of all frames, float32 [frames, 2], in batches of the engine's own budget."""
    parts = []
    first = 0
    while first < len(frames):
        count, _, _ = how_many_fit(frames[first:], engine.default_token_budget)
        parts.append(engine.score(frames[first : first + count]))
        first += count
    return np.concatenate(parts)


def measure(engine: Engine, corpus: Corpus, chosen: EvaluationSet) -> dict[str, Any]:
    """The figures of `chosen`, with what computed them."""
    scores = engine_scores(engine, chosen.frames)
    info = engine.info
    return {
        "precision": info.precision,
        "attention": {"esm2": info.attention_backend, "dnabert_s": info.dna_attention_backend},
        "chunks_without_open_frame": chosen.chunks - len(chosen.layout.chunk_record),
        **evaluate(scores, chosen.layout, corpus.labels, corpus.groups),
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of genomes.npz")
    parser.add_argument("--bundle", default="nano", help="name or folder of the bundle")
    parser.add_argument("--split", choices=SPLITS, default=VALIDATION)
    parser.add_argument("--records", type=int, help="only that many records, drawn with a fixed seed")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args(arguments)
    corpus = Corpus.load(options.data / "genomes.npz")
    records = corpus.records_of(options.split)
    if options.records is not None:
        records = np.sort(np.random.default_rng(1).permutation(records)[: options.records])
    engine = Engine(Bundle.load(find_bundle(options.bundle)), options.device, options.precision)
    chosen = evaluation_part(corpus, engine.tokenizer, engine.expected_length, records)
    print(json.dumps(measure(engine, corpus, chosen), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
