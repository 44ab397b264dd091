"""What the service asks of a model, whatever computes it: the engine, or a stand-in that a benchmark brings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consumer.config.settings import ServiceSettings
from schemas import Provenance
from virnucpro_core import __version__
from virnucpro_core.evaluation.divergence import Divergence
from virnucpro_core.scoring.model import EngineInfo, PrepareSequence, Scorer
from virnucpro_core.sequence.prepare import PreparedFrame


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model ready to serve.

    Attributes:
        scorer: scores frames.
        prepare: splits and tokenises a valid sequence for it.
        info: what computes.
        default_token_budget: tokens of a batch where the settings give none.
        after_batch: called on the inference thread when a batch has been handed over.
    """

    scorer: Scorer
    prepare: PrepareSequence
    info: EngineInfo
    default_token_budget: int
    after_batch: Callable[[Sequence[PreparedFrame]], None] | None = None


ModelLoader = Callable[[ServiceSettings, Callable[[Divergence | None], None]], ServedModel]
"""(settings, callback for each batch that ran on both attention paths) -> a model ready to serve."""


def provenance(info: EngineInfo) -> Provenance:
    """What every prediction says of the model; the source of the record is filled in later."""
    return Provenance(
        model_id=info.model_id,
        model_sha256=info.model_sha256,
        expected_length=info.expected_length,
        attention=info.attention,
        attention_backend=info.attention_backend,
        precision=info.precision,
        software_version=__version__,
    )
