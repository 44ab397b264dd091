"""A bundle of random weights in the published models' shapes: speed does not depend on the weights.

    python -m benchmarks.random_bundle FOLDER [--shape 8M|650M|3B]

DNABERT-S and the head have the published shapes, and the nucleotide tokenizer, made here of random letters, has as many
tokens as DNABERT-S's: a frame of 500 bases has about 104. Weights are stored in fp16, as imported ones are.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import esm
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

from benchmarks.forward import SHAPES
from benchmarks.records import reads
from virnucpro_core.bundle.bundle import Bundle, write_bundle
from virnucpro_core.bundle.manifest import DnabertSConfig, HeadConfig, Manifest
from virnucpro_core.bundle.weights import weights_of
from virnucpro_core.models.classifier import Head
from virnucpro_core.models.dnabert_s import DnabertS
from virnucpro_core.models.esm2_weights import esm2_weights

DNABERT_S = DnabertSConfig(layers=12, dim=768, heads=12, intermediate=3072, vocab=4096)


def random_bundle(path: Path, shape: str, dnabert_s: DnabertSConfig = DNABERT_S) -> Bundle:
    """Write one; `path` does not exist yet. The weights are made on the GPU if there is one."""
    esm2 = SHAPES[shape]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(1)
    with torch.no_grad(), torch.device(device):
        tensors = {
            "esm2": esm2_weights(esm.ESM2(esm2.layers, esm2.dim, esm2.heads), torch.float16),
            "dnabert_s": weights_of(DnabertS(dnabert_s), torch.float16),
            "head": weights_of(Head(dnabert_s.dim + esm2.dim, 512), torch.float32),
        }
    draft = Manifest(
        id=f"random-{shape}",
        description="Random weights, for benchmarks.",
        expected_length=500,
        esm2=esm2,
        dnabert_s=dnabert_s,
        head=HeadConfig(hidden=512),
        licence="MIT",
    )
    with tempfile.TemporaryDirectory() as folder:
        return write_bundle(path, draft, tensors, write_tokenizer(Path(folder) / "tokenizer.json"))


def write_tokenizer(path: Path) -> Path:
    """A nucleotide tokenizer of DNABERT-S's kind and size."""
    tokenizer = Tokenizer(BPE(unk_token="[UNK]"))
    specials = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    trainer = BpeTrainer(vocab_size=DNABERT_S.vocab, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator((letters for _, letters in reads(1000, seed=2)), trainer)
    around = [(name, specials.index(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    tokenizer.save(str(path))
    return path


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="3B")
    options = parser.parse_args()
    print(random_bundle(options.folder, options.shape).manifest.id)


if __name__ == "__main__":
    main()
