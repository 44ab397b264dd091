"""The model as the service and `virnucpro predict` load it: one way for both, so that their scores are the same."""

from __future__ import annotations

from consumer.errors import ServiceError
from consumer.preparation import PrepareSequence
from consumer.settings import Settings
from schemas import Provenance
from virnucpro_core import __version__
from virnucpro_core.models.bundle import Bundle, find_bundle
from virnucpro_core.models.engine import Engine, EngineInfo
from virnucpro_core.prepare import PreparedRecord, prepare


def load_engine(settings: Settings) -> Engine:
    """The model that the settings ask for, self-tested; `predict` loads it in the same way."""
    engine = Engine(
        Bundle.load(find_bundle(settings.model)),
        device=settings.device,
        precision=settings.precision,
        attention_backend=settings.attention_backend,
        v1_attention=settings.v1_attention,
        self_test=settings.self_test,
    )
    longest = engine.expected_length // 3 + 2
    if settings.token_budget is not None and settings.token_budget < engine.expected_length + 2:
        raise ServiceError(
            f"VIRNUCPRO_TOKEN_BUDGET={settings.token_budget} is too small for one frame of the model "
            f"{engine.info.model_id} ({longest} protein and up to {engine.expected_length + 2} nucleotide tokens): "
            f"set it to {engine.expected_length + 2} or more"
        )
    return engine


def preparer(engine: Engine) -> PrepareSequence:
    """Cuts and tokenises sequences for this model."""

    def prepare_sequence(record_id: str, sequence: str) -> PreparedRecord:
        return prepare(record_id, sequence, engine.expected_length, engine.tokenizer)

    return prepare_sequence


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
