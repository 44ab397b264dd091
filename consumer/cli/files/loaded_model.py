"""The model of a command for files, loaded while a line on the terminal says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consumer.cli.progress import waiting

if TYPE_CHECKING:
    from consumer.config.settings import ModelSettings
    from virnucpro_core.models.engine import Engine


def loaded_engine(settings: ModelSettings, threads: int | None = None) -> Engine:
    """As `consumer.scoring.loading.load_engine`; importing torch is a part of it."""
    with waiting(f"loading the model {settings.model}"):
        from consumer.scoring.loading import load_engine

        return load_engine(settings, threads)
