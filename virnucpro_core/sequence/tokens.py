"""Token ids of both models: proteins for ESM-2, nucleotides for DNABERT-S."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from virnucpro_core.regular_files import UnusableFile, read_small
from virnucpro_core.sequence.tokenizer_file import MOST_BYTES, check_tokenizer
from virnucpro_core.wording import one_line

# The library's own switch. By default it spreads each call, of a frame or two as a rule, over a pool of threads: on a
# machine whose cores are busy with the model that takes longer than doing it here, and more processor time.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ESM2_CLS, ESM2_PAD, ESM2_EOS, ESM2_MASK = 0, 1, 2, 32
ESM2_ALPHABET_SIZE = 33

_ESM2_LETTERS = b"LAGVSERTIDPKQNFYMHWCXBUZO.-"
"""The one-letter tokens of fair-esm's ESM-1b alphabet in its order; the first has the id 4."""
_ESM2_FIRST_LETTER = 4
_UNKNOWN = -1
_PAD_NAMES = ("[PAD]", "<pad>")
_TRIAL = "ACGTACGTNNRYSWKMBDHVUacgtn"


def _letter_ids() -> NDArray[np.int32]:
    table = np.full(256, _UNKNOWN, dtype=np.int32)
    table[np.frombuffer(_ESM2_LETTERS, dtype=np.uint8)] = np.arange(
        _ESM2_FIRST_LETTER, _ESM2_FIRST_LETTER + len(_ESM2_LETTERS)
    )
    return table


_ESM2_IDS = _letter_ids()


def esm2_token_ids(protein: str) -> NDArray[np.int32]:
    """A protein as ESM-2 reads it, by look-up table: fair-esm's batch converter gives the same ids.

    Args:
        protein: letters of the ESM-1b alphabet (the 20 amino acids, X, B, U, Z, O, `.`, `-`), upper case.

    Returns:
        int32 [residues + 2]: cls, the residues, eos.

    Raises:
        ValueError: a letter is outside the alphabet.
    """
    # One byte a letter; what is outside ASCII becomes `?`, which the alphabet does not have.
    letters = np.frombuffer(protein.encode("ascii", "replace"), dtype=np.uint8)
    ids = np.empty(len(letters) + 2, dtype=np.int32)
    ids[0], ids[-1] = ESM2_CLS, ESM2_EOS
    residues = ids[1:-1]
    residues[:] = _ESM2_IDS[letters]
    if residues.size and residues.min() == _UNKNOWN:
        position = int(residues.argmin())
        raise ValueError(
            f"{protein[position]!a} at residue {position + 1} is not a letter of the ESM-2 alphabet"
        )
    return ids


class DnaTokenizer:
    """DNABERT-S's tokenizer, read from a `tokenizer.json`. Safe from any thread.

    Nothing is truncated or padded, whatever the file asks for.

    Args:
        path: a file of the `tokenizers` library; it names the special tokens and where they go.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a tokenizer, does not name a padding token, has ids beyond its vocabulary, or asks for
            what `virnucpro_core.sequence.tokenizer_file` does not allow; the message begins with the path.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            text = read_small(Path(path), MOST_BYTES).decode("utf-8")
            check_tokenizer(text)
            tokenizer = Tokenizer.from_str(text)
            tokenizer.no_truncation()
            tokenizer.no_padding()
            # Some of what is wrong with a file shows only when it is used, such as an unknown token that it lacks.
            tokenizer.encode(_TRIAL, add_special_tokens=True)
        except UnusableFile as error:
            raise ValueError(f"{path} {error}") from error
        except OSError:
            raise
        except BaseException as error:
            # The library raises nothing more specific; where its Rust code panics, it is not even an Exception.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise ValueError(f"{path} is not a tokenizer file: {one_line(error)}") from error
        self._tokenizer = tokenizer
        _check_ids(tokenizer, path)
        self._pad_id = _pad_id(tokenizer, path)

    @property
    def vocabulary_size(self) -> int:
        """Ids that `encode` can give, special tokens included: they are 0 .. vocabulary_size - 1."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def pad_id(self) -> int:
        """Id of the padding token."""
        return self._pad_id

    def encode(self, sequences: Sequence[str]) -> list[NDArray[np.int32]]:
        """Token ids of each sequence, int32 [tokens], with the special tokens that the file asks for."""
        encodings = self._tokenizer.encode_batch_fast(list(sequences), add_special_tokens=True)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]


def _check_ids(tokenizer: Tokenizer, path: str | Path) -> None:
    """An id beyond the vocabulary would be one beyond the model's table of embeddings."""
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    around = tokenizer.encode("", add_special_tokens=True).ids
    highest = max([*tokenizer.get_vocab(with_added_tokens=True).values(), *around], default=-1)
    if highest >= size:
        raise ValueError(f"{path} has {size:,} tokens, and one of the id {highest:,}: fetch it again")


def _pad_id(tokenizer: Tokenizer, path: str | Path) -> int:
    for token_id, token in tokenizer.get_added_tokens_decoder().items():
        if token.special and token.content in _PAD_NAMES:
            return int(token_id)
    raise ValueError(f"{path} has no padding token: none of its special tokens is {' or '.join(_PAD_NAMES)}")
