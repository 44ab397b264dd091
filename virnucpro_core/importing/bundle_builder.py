"""Puts ESM-2, DNABERT-S, a classifier and the tokenizer together into a bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virnucpro_core.bundle.bundle import Bundle, write_bundle
from virnucpro_core.bundle.manifest import DnabertSConfig, Esm2Config, HeadConfig, Manifest
from virnucpro_core.hashing import sha256_of
from virnucpro_core.importing.dnabert_s_checkpoint import read_dnabert_s
from virnucpro_core.importing.esm2_checkpoint import read_esm2
from virnucpro_core.importing.head_checkpoint import features_of, read_head
from virnucpro_core.importing.import_error import CheckpointError
from virnucpro_core.importing.parts import Part
from virnucpro_core.sequence.tokens import DnaTokenizer

_TOKENIZER = "tokenizer.json"
_LICENCE = "that of the imported weights; ask their publishers"
_PIECE = 16 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """Published checkpoints that have been read and found to fit each other.

    Attributes:
        esm2, dnabert_s, head: the models; their weights are still in their files.
        tokenizer: a tokenizer.json.
    """

    esm2: Part[Esm2Config]
    dnabert_s: Part[DnabertSConfig]
    head: Part[HeadConfig]
    tokenizer: Path

    @property
    def work(self) -> int:
        """Bytes that `build_bundle` reads and writes, for a progress bar."""
        parts = (self.esm2, self.dnabert_s, self.head)
        return sum(part.bytes + sum(file.stat().st_size for file in part.files) for part in parts)


def read_sources(esm2: Path, dnabert_s: Path, head: Path, tokenizer: Path | None) -> Sources:
    """Read the parts of a bundle and check that they fit each other, before anything is written.

    Args:
        esm2: a fair-esm `.pt` file or a Hugging Face folder.
        dnabert_s: a Hugging Face folder, or a file of weights.
        head: a published `500_model.pth` or `300_model.pth`, or a state dict.
        tokenizer: DNABERT-S's tokenizer.json; None takes the one beside its weights.

    Raises:
        BundleError: a part is refused, or they do not belong together.
        OSError: a file cannot be read.
    """
    # The smallest file first, so that its errors are reported at once.
    classifier = read_head(head)
    dna = read_dnabert_s(dnabert_s)
    protein = read_esm2(esm2)
    given, taken = dna.config.dim + protein.config.dim, features_of(classifier)
    if given != taken:
        raise CheckpointError(
            f"{head} takes {taken} features, but DNABERT-S ({dna.config.dim}) and this ESM-2 "
            f"({protein.config.dim}) give {given}: name the ESM-2 that it was trained with (the published "
            "classifiers need ESM-2 3B)"
        )
    return Sources(protein, dna, classifier, _tokenizer(tokenizer, dna))


def build_bundle(
    sources: Sources, output: Path, id: str, expected_length: int, done: Callable[[int], None]
) -> Bundle:
    """Write a bundle: either all of it appears at `output`, or nothing. The weights are streamed.

    Args:
        sources: what it is made of.
        output: a folder that does not exist yet.
        id: the model's id, stamped on every prediction.
        expected_length: bases in a chunk that the classifier was trained on.
        done: called with the number of bytes after each piece; they add up to `sources.work`.

    Raises:
        BundleError: `output` exists.
        OSError: it cannot be written.
    """
    protein, dna = sources.esm2.config, sources.dnabert_s.config
    draft = Manifest(
        id=id,
        description=(
            f"VirNucPro for {expected_length} bases, imported: ESM-2 of {protein.layers} layers and "
            f"{protein.dim} dimensions, DNABERT-S of {dna.layers} and {dna.dim}"
        ),
        expected_length=expected_length,
        esm2=protein,
        dnabert_s=dna,
        head=sources.head.config,
        licence=_LICENCE,
        training={
            "imported": {
                "esm2": _origin(sources.esm2, done),
                "dnabert_s": _origin(sources.dnabert_s, done),
                "head": _origin(sources.head, done),
            }
        },
    )
    tensors = {
        "esm2": sources.esm2.tensors,
        "dnabert_s": sources.dnabert_s.tensors,
        "head": sources.head.tensors,
    }
    return write_bundle(output, draft, tensors, sources.tokenizer, done)


def _tokenizer(given: Path | None, dna: Part[DnabertSConfig]) -> Path:
    path = given or dna.files[0].with_name(_TOKENIZER)
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: name DNABERT-S's {_TOKENIZER} with --tokenizer")
    try:
        words = DnaTokenizer(path).vocabulary_size
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if words > dna.config.vocab:
        raise CheckpointError(
            f"{path} has {words} tokens, the model {dna.config.vocab}: name the tokenizer of this DNABERT-S"
        )
    return path


def _origin(
    part: Part[Esm2Config] | Part[DnabertSConfig] | Part[HeadConfig], done: Callable[[int], None]
) -> dict[str, Any]:
    """The layout and the sha256 of the files that a part came from, to be compared with what is published."""
    return {"layout": part.layout, "files": {file.name: sha256_of(file, done) for file in part.files}}
