"""Trains the DNA tokenizer: byte-pair encoding over raw nucleotides, as DNABERT-S's, of a small vocabulary.

    python -m training.train_tokenizer --data DIR [--vocabulary 1024]

Only the training split's nucleotides are seen, drawn from both strands with the same balance as in training.
There is no pre-tokenisation: a chunk is one word, so tokens may cross anything. Special tokens take the ids
0..4 in the order [UNK] [CLS] [SEP] [PAD] [MASK]; a sequence is encoded as `[CLS] $A [SEP]`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

from training.corpus import TRAIN, BalancedSampler, Corpus

SPECIALS = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
COMPLEMENT = str.maketrans("ACGT", "TGCA")


def sample_pieces(corpus: Corpus, pieces: int, bases: int, seed: int) -> Iterator[str]:
    """`pieces` stretches of at most `bases` letters, half of them reverse-complemented, cut at letters
    other than A, C, G and T."""
    rng = np.random.default_rng(seed)
    records = corpus.records_of(TRAIN)
    sampler = BalancedSampler(corpus, records)
    for record in sampler.draw(rng, pieces):
        room = max(int(corpus.lengths[record]) - bases, 0)
        start = int(rng.integers(room + 1))
        piece = corpus.sequence(int(record), start, start + bases)
        if rng.random() < 0.5:
            piece = piece.translate(COMPLEMENT)[::-1]
        yield from "".join(letter if letter in "ACGT" else " " for letter in piece).split()


def train_tokenizer(pieces: Iterator[str], vocabulary: int) -> Tokenizer:
    """A BPE tokenizer of `vocabulary` entries, the specials among them."""
    tokenizer = Tokenizer(BPE(unk_token="[UNK]"))
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIALS),
        initial_alphabet=list("ACGT"),
        limit_alphabet=4,
        show_progress=False,
    )
    tokenizer.train_from_iterator(pieces, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of genomes.npz")
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--pieces", type=int, default=30000, help="stretches to learn from")
    parser.add_argument("--piece-bases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    corpus = Corpus.load(options.data / "genomes.npz")
    pieces = sample_pieces(corpus, options.pieces, options.piece_bases, options.seed)
    tokenizer = train_tokenizer(pieces, options.vocabulary)
    target = options.data / "tokenizer.json"
    tokenizer.save(str(target))
    print(f"wrote {target}: {tokenizer.get_vocab_size()} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
