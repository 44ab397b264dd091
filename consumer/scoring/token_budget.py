"""VIRNUCPRO_TOKEN_BUDGET=auto: the budget is measured once for each device, model and setting, and kept in a file.

The file is a cache and nothing more: what cannot be read is measured again, and what cannot be kept is measured at the
next start.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from consumer.scoring.state_folder import StateFolder
from virnucpro_core import __version__
from virnucpro_core.models.device import versions
from virnucpro_core.models.engine import Engine
from virnucpro_core.scoring.model import preparer
from virnucpro_core.scoring.token_budget import (
    Rate,
    Timer,
    doublings,
    measure_rates,
    suitable,
    typical_frames,
)
from virnucpro_core.wording import one_line

FILE = "token-budgets.json"
_MOST_KEPT = 100
_FRAMES = 64
_SMALLEST, _LARGEST = 4, 8
"""What is tried: from a quarter of the device's default, since what a batch costs around the model is not measured, to
eight times as much."""
_KEPT = TypeAdapter(dict[str, int])


@dataclass(frozen=True, slots=True)
class FoundBudget:
    """A token budget, and where it is from.

    Attributes:
        rates: as measured; empty if the budget was known.
        discarded: why what was kept could not be used, empty if it could or there was nothing.
        not_kept: why it could not be kept, empty if it could.
    """

    token_budget: int
    rates: tuple[Rate, ...] = ()
    discarded: str = ""
    not_kept: str = ""


def cache_folder() -> Path:
    """Where it is kept for the commands for files: `virnucpro` in $XDG_CACHE_HOME, or in ~/.cache."""
    home = os.environ.get("HOME") or tempfile.gettempdir()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path(home) / ".cache") / "virnucpro"


def find_budget(engine: Engine, folder: Path, timer: Timer = time.perf_counter) -> FoundBudget:
    """The budget that is kept for this engine, or one that is measured now.

    Raises:
        OutOfMemory: not even a batch of one frame fits.
        DeviceLost: from the model.
    """
    least = engine.expected_length + 2
    key, state = _key(engine), StateFolder(folder)
    try:
        kept, discarded = _read(state)
        if kept.get(key, 0) >= least:
            return FoundBudget(kept[key], discarded=discarded)
        rates = measure_rates(
            engine,
            typical_frames(preparer(engine), engine.expected_length, _FRAMES),
            doublings(
                max(least, engine.default_token_budget // _SMALLEST), _LARGEST * engine.default_token_budget
            ),
            timer,
        )
        budget = suitable(rates).token_budget
        kept.pop(key, None)
        newest = [*kept.items(), (key, budget)][-_MOST_KEPT:]
        not_kept = _write(state, dict(newest))
        return FoundBudget(budget, tuple(rates), discarded, not_kept)
    finally:
        state.close()


def _key(engine: Engine) -> str:
    """All that the rate depends on, as far as the program knows it."""
    info = engine.info
    parts = [f"{name}={value}" for name, value in sorted(info.as_dict().items())]
    recorded = f"kernels={info.kernels} graphs={info.graphs is not None}"
    return " ".join([*parts, recorded, f"software={__version__}", *versions(info.device)])


def _read(state: StateFolder) -> tuple[dict[str, int], str]:
    try:
        text = state.read(FILE)
        return (_KEPT.validate_json(text, strict=True) if text else {}), ""
    except ValidationError as error:
        return {}, error.errors(include_url=False, include_context=False, include_input=False)[0]["msg"]
    except (OSError, ValueError) as error:
        return {}, one_line(error)


def _write(state: StateFolder, kept: dict[str, int]) -> str:
    try:
        state.replace(FILE, _KEPT.dump_json(kept))
    except OSError as error:
        return one_line(error)
    return ""
