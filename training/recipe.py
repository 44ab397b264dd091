"""Everything that decides a model but the data and the machine: recipe.toml, read into dataclasses."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

DEFAULT = Path(__file__).with_name("recipe.toml")
LENGTHS = (500, 300)
"""Bases of a chunk: a bundle is made for each."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the models: layers, dimension and heads of ESM-2; the same, and the feed-forward width, of
    DNABERT-S; hidden width of the head."""

    esm2_layers: int
    esm2_dim: int
    esm2_heads: int
    dna_layers: int
    dna_dim: int
    dna_heads: int
    dna_intermediate: int
    head_hidden: int


@dataclass(frozen=True, slots=True)
class Data:
    """How training chunks are drawn and augmented.

    chunks: how many; full: the share that has the model's full length, while the others have `shortest` (a
    share of the length) or more; balance: see BalancedSampler; stitched: the share of eukaryotes and their
    viruses that is put together from open pieces of one record, as exons are; recoded: the share of their
    frames whose codons are drawn again among their synonyms, with the codon usage of no organism;
    recoded_prokaryotes: the same for the others; mutated, mutation: the share of frames with other
    bases, and the highest rate of codons hit; extra_weight: how much a base of the extra sources counts against
    one of the same group in the training split, 0 to leave them out.
    """

    seed: int
    chunks: int
    full: float
    shortest: float
    balance: float
    stitched: float
    recoded: float
    recoded_prokaryotes: float
    mutated: float
    mutation: float
    extra_weight: float


@dataclass(frozen=True, slots=True)
class Optimiser:
    """AdamW: steps of `frames` frames; the learning rate rises over `warmup_steps` to `lr`, then falls as a cosine
    to zero; ema_decay: of the exponential moving average of the weights; muon: 1 if the matrices in the encoders'
    layers are updated by Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon), 0 if by AdamW as the rest."""

    seed: int
    steps: int
    frames: int
    lr: float
    warmup_steps: int
    weight_decay: float
    ema_decay: float
    muon: int


@dataclass(frozen=True, slots=True)
class Pretrain:
    """What the encoders learn first.

    protein_masked, dna_masked: share of the tokens hidden, of each model; lm_weight, pairs_weight: weights of the
    losses of hidden tokens and of pairs, see training.model.losses; dna_lr_ratio: DNABERT-S's learning rate, as a
    share of ESM-2's.
    """

    optimiser: Optimiser
    protein_masked: float
    dna_masked: float
    lm_weight: float
    pairs_weight: float
    dna_lr_ratio: float


@dataclass(frozen=True, slots=True)
class Head:
    """Training of the classifier, with the encoders.

    encoder_lr_ratio: the encoders' learning rate, as a share of the head's; dropout: of features and of the head's
    hidden values; smoothing: see training.model.losses.targets; masked: share of the tokens hidden; masked_frames:
    share of the frames with hidden tokens; lm_weight, pairs_weight: as in Pretrain; ensemble: how many models are
    trained from the same start, each on the chunks in another order, for their weights to be averaged; evals: how
    often the dev split is measured.
    """

    optimiser: Optimiser
    encoder_lr_ratio: float
    dropout: float
    smoothing: float
    masked: float
    masked_frames: float
    lm_weight: float
    pairs_weight: float
    ensemble: int
    evals: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """All of it."""

    shape: Shape
    data: Data
    pretrain: Pretrain
    head: Head

    @staticmethod
    def load(path: Path = DEFAULT, changes: Iterable[str] = ()) -> Recipe:
        """Read a recipe; `changes` are settings like head.optimiser.steps=10.

        Raises:
            ValueError: an unknown, missing or mistyped setting; the message names it.
            OSError: the file cannot be read.
        """
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        for change in changes:
            _change(content, change)
        recipe: Recipe = _build(Recipe, content, "recipe")
        return recipe

    def digest(self, *sections: str) -> str:
        """Names the settings of some sections: equal digests, equal settings."""
        content = {section: asdict(getattr(self, section)) for section in sections}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


_SECTIONS = {kind.__name__: kind for kind in (Shape, Data, Optimiser, Pretrain, Head)}
_PLAIN: dict[str, tuple[type[int] | type[float], ...]] = {"int": (int,), "float": (int, float)}


def _change(content: dict[str, Any], change: str) -> None:
    """Set one setting that is there already."""
    name, _, value = change.partition("=")
    *sections, setting = name.split(".")
    place: Any = content
    for section in sections:
        place = place.get(section) if isinstance(place, dict) else None
    if not isinstance(place, dict) or setting not in place or isinstance(place[setting], dict):
        raise ValueError(f"unknown setting {name}")
    try:
        place[setting] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{name} cannot be {value!r}") from error


def _build(kind: Any, content: Any, where: str) -> Any:
    if not isinstance(content, dict):
        raise ValueError(f"{where} must be a section, not {content!r}")
    values: dict[str, Any] = {}
    for field in fields(kind):
        name = f"{where}.{field.name}"
        if field.name not in content:
            raise ValueError(f"{name} is missing")
        value = content[field.name]
        if str(field.type) in _SECTIONS:
            values[field.name] = _build(_SECTIONS[str(field.type)], value, name)
        elif isinstance(value, bool) or not isinstance(value, _PLAIN[str(field.type)]):
            raise ValueError(f"{name} must be {field.type}, not {value!r}")
        else:
            values[field.name] = float(value) if field.type == "float" else value
    if unknown := set(content) - set(values):
        raise ValueError(f"{where} has no setting {', '.join(sorted(unknown))}")
    return kind(**values)
