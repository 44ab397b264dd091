"""The model as the service and `virnucpro predict` load it: one way for both, so that their scores are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog

from consumer.config.priority import BUDGET_SHARES
from consumer.config.settings import ModelSettings, ServiceSettings
from consumer.errors import ServiceError
from consumer.scoring.divergence_sampler import DivergenceSampler
from consumer.scoring.model import ServedModel
from consumer.scoring.token_budget import FILE, FoundBudget, cache_folder, find_budget
from virnucpro_core.bundle.bundle import Bundle, find_bundle
from virnucpro_core.bundle.manifest import Manifest
from virnucpro_core.evaluation.divergence import Divergence
from virnucpro_core.library_pages import release_library_pages
from virnucpro_core.models.device import use_threads
from virnucpro_core.models.engine import Engine
from virnucpro_core.options import AUTO
from virnucpro_core.scoring.model import preparer

log = structlog.get_logger(__name__)


def load_engine(settings: ModelSettings, threads: int | None = None) -> Engine:
    """The model that the settings ask for, self-tested; the commands for files load it in this way.

    What importing torch has left in memory of its libraries is given back first.

    Args:
        threads: as of `virnucpro_core.models.device.use_threads`.
    """
    release_library_pages()
    engine = _new_engine(settings, threads)
    if settings.token_budget == AUTO:
        engine.default_token_budget = find_budget(engine, cache_folder()).token_budget
    return engine


def _new_engine(settings: ModelSettings, threads: int | None = None) -> Engine:
    use_threads(threads)
    bundle = Bundle.load(find_bundle(settings.model))
    _check_budget(settings.fixed_token_budget, bundle.manifest)  # before minutes go by with loading
    return Engine(
        bundle,
        device=settings.device,
        precision=settings.precision,
        attention_backend=settings.attention_backend,
        v1_attention=settings.v1_attention,
        self_test=settings.self_test,
        cuda_graphs=settings.cuda_graphs,
    )


def load_model(settings: ServiceSettings, diverged: Callable[[Divergence | None], None]) -> ServedModel:
    """The engine as the service runs it.

    Args:
        diverged: called for each batch that ran on the other attention path too (VIRNUCPRO_DIVERGENCE_SAMPLE).
    """
    engine = _new_engine(settings)
    if settings.token_budget == AUTO:
        engine.default_token_budget = _logged(find_budget(engine, Path(settings.state_dir)))
    sampler = None
    if settings.divergence_sample > 0:
        other = engine.on_path(v1=engine.info.attention == "packed")
        sampler = DivergenceSampler(engine, other, settings.divergence_sample, diverged).saw
    return ServedModel(
        scorer=engine,
        prepare=preparer(engine, settings.keep_u),
        info=engine.info,
        default_token_budget=engine.default_token_budget // BUDGET_SHARES[settings.priority],
        after_batch=sampler,
    )


def _logged(found: FoundBudget) -> int:
    if found.discarded:
        log.warning("state_file_discarded", file=FILE, error=found.discarded)
    rates = {str(rate.token_budget): round(rate.tokens_per_s) for rate in found.rates}
    log.info("token_budget_found", token_budget=found.token_budget, measured=bool(rates), tokens_per_s=rates)
    if found.not_kept:
        log.warning("token_budget_not_kept", error=found.not_kept)
    return found.token_budget


def _check_budget(token_budget: int | None, manifest: Manifest) -> None:
    """Refuse a budget that one frame of this model may be over."""
    protein, dna = manifest.expected_length // 3 + 2, manifest.expected_length + 2
    if token_budget is not None and token_budget < dna:
        raise ServiceError(
            f"VIRNUCPRO_TOKEN_BUDGET={token_budget} is too small for one frame of the model "
            f"{manifest.id} ({protein} protein and up to {dna} nucleotide tokens): set it to {dna} or more"
        )
