"""The packed attention against the v1.0-compatible one on real frames, for every precision that the device has.

    python -m benchmarks.divergence --data DIR [--model nano] [--frames 2500]

DIR holds the genomes.npz of `training.data.prepare_data`; the frames are those of the first chunks of the validation
records, which the bundled model has not learned from. `virnucpro divergence` prints the same figures for a FASTA file;
this needs nothing of the service, so it runs on a GPU machine that has torch and little else.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from training.data.corpus import VALIDATION, Corpus
from virnucpro_core.bundle.bundle import Bundle, find_bundle
from virnucpro_core.evaluation.divergence import frames_of_proteins, measure, published_proteins
from virnucpro_core.models.engine import Engine
from virnucpro_core.sequence.prepare import PreparedFrame, prepare


def real_frames(corpus: Corpus, engine: Engine, wanted: int, bases: int = 3000) -> list[PreparedFrame]:
    """At least `wanted` frames, from the first `bases` letters of every validation record in turn."""
    frames: list[PreparedFrame] = []
    for record in corpus.records_of(VALIDATION):
        sequence = corpus.sequence(int(record), 0, bases)
        frames += prepare(str(record), sequence, engine.expected_length, engine.tokenizer).frames
        if len(frames) >= wanted:
            return frames
    raise SystemExit(f"only {len(frames)} frames in the validation split")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--frames", type=int, default=2500)
    options = parser.parse_args()
    bundle = Bundle.load(find_bundle(options.model))
    corpus = Corpus.load(options.data / "genomes.npz")
    for precision in ("fp32", "fp16", "bf16") if torch.cuda.is_available() else ("fp32", "bf16"):
        engine = Engine(bundle, precision=precision)
        packed, v1 = engine.on_path(v1=False), engine.on_path(v1=True)
        sets = {
            "published proteins": frames_of_proteins(published_proteins(), engine.tokenizer),
            "validation genomes": real_frames(corpus, engine, options.frames),
        }
        for name, frames in sets.items():
            figures = measure(packed, v1, frames, engine.default_token_budget).as_dict()
            about = {"precision": precision, "backend": packed.info.attention_backend, "set": name}
            print(json.dumps(about | {"device": packed.info.device} | figures))


if __name__ == "__main__":
    main()
