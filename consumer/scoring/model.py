"""What the service asks of a model, whatever computes it: the engine, or a stand-in that a benchmark brings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from consumer.config.settings import ServiceSettings
from consumer.scoring.inference import Scorer
from consumer.scoring.preparation import PrepareSequence
from schemas import Provenance
from virnucpro_core.evaluation.divergence import Divergence
from virnucpro_core.sequence.prepare import PreparedFrame


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model ready to serve.

    Attributes:
        scorer: scores frames.
        prepare: cuts and tokenises a valid sequence for it.
        stamp: what every prediction says of it.
        default_token_budget: tokens of a batch where the settings give none.
        device: where it runs, for people to read.
        refusals: attention back-ends that cannot serve here, and why.
        self_test: how far the attention path was off the reference, or None if nothing has checked it.
        after_batch: called on the inference thread when a batch has been handed over.
    """

    scorer: Scorer
    prepare: PrepareSequence
    stamp: Provenance
    default_token_budget: int
    device: str
    refusals: Mapping[str, str] = field(default_factory=dict)
    self_test: float | None = None
    after_batch: Callable[[Sequence[PreparedFrame]], None] | None = None


ModelLoader = Callable[[ServiceSettings, Callable[[Divergence | None], None]], ServedModel]
"""(settings, what to tell of a batch that went through both attention paths) -> a model ready to serve."""
