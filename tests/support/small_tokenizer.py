"""A nucleotide tokenizer of DNABERT-S's kind, small enough to be made in a test."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing

from virnucpro_core.sequence.tokens import DnaTokenizer

SPECIALS = ("[PAD]", "[UNK]", "[MASK]", "[SEP]", "[CLS]")
"""In an order that is not DNABERT-S's: ids must come from the file."""
MERGES = [("A", "C"), ("G", "T"), ("AC", "GT"), ("A", "A"), ("AA", "A"), ("T", "T")]


def write_tokenizer(path: Path) -> Path:
    """Write `tokenizer.json`: a few merges, `[CLS] $A [SEP]`, a truncation and a padding to be undone."""
    words = [*SPECIALS, *"ACGT", *("".join(pair) for pair in MERGES)]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(BPE(vocabulary, MERGES, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(pad_id=vocabulary["[PAD]"], pad_token="[PAD]", length=8)
    tokenizer.save(str(path))
    return path


@cache
def small_tokenizer() -> DnaTokenizer:
    """The same, loaded."""
    with tempfile.TemporaryDirectory() as folder:
        return DnaTokenizer(write_tokenizer(Path(folder) / "tokenizer.json"))
