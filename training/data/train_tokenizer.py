"""Trains the DNA tokenizer: byte-pair encoding within codons.

    python -m training.data.train_tokenizer --data DIR

The nucleotides that the model sees are open frames, so every third letter begins a codon. DNABERT-S's own tokens
cross codons wherever a pair of letters is frequent, and hide from the encoder what is the best witness between
an unseen virus and an unseen host: which codons are used, and which stand side by side. So the words in
which pairs are merged are codons, as in codon language models (CaLM, Outeiral and Deane 2024,
doi:10.1038/s42256-024-00791-0): a codon is one token in the end, and shorter tokens are left for what is no
whole codon.

Only the training split's nucleotides are seen, drawn from both strands with the same balance as in training.
Special tokens take the ids 0..4 in the order [UNK] [CLS] [SEP] [PAD] [MASK]; a sequence is encoded as
`[CLS] $A [SEP]`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

from training.data.corpus import TRAIN, BalancedSampler, Corpus

SPECIALS = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
VOCABULARY = len(SPECIALS) + 4 + 4**2 + 4**3  # at most: letters, pairs, codons
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


def train_tokenizer(pieces: Iterator[str]) -> Tokenizer:
    """A BPE tokenizer of at most VOCABULARY entries; all codons are among them that the pieces have."""
    tokenizer = Tokenizer(BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Split(Regex(".{3}"), "isolated")
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
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
    parser.add_argument("--pieces", type=int, default=30000, help="stretches to learn from")
    parser.add_argument("--piece-bases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    corpus = Corpus.load(options.data / "genomes.npz")
    pieces = sample_pieces(corpus, options.pieces, options.piece_bases, options.seed)
    tokenizer = train_tokenizer(pieces)
    target = options.data / "tokenizer.json"
    tokenizer.save(str(target))
    print(f"wrote {target}: {tokenizer.get_vocab_size()} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
