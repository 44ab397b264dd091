"""Where `predict` computes: on the processor in this process, or on GPUs or several devices, a process each.

A GPU is given a process although it is alone: it computes while frames are prepared and results are written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from consumer.cli.files.device_use import DeviceUse
from consumer.cli.files.loaded_model import loaded_engine
from consumer.cli.files.scoring import Counting, ModelOfFiles
from consumer.config.settings import ModelSettings
from virnucpro_core.scoring.computing import Rows
from virnucpro_core.scoring.frame_cache import with_cache
from virnucpro_core.scoring.model import FloatArray
from virnucpro_core.sequence.prepare import PreparedFrame

if TYPE_CHECKING:
    from virnucpro_core.models.engine import Engine


class OneDevice:
    """The model in this process, behind the cache of frames; a `Counting`.

    Args:
        entries: as of `virnucpro_core.scoring.frame_cache.with_cache`.
    """

    ahead = 0

    def __init__(self, engine: Engine, entries: int) -> None:
        self._use = DeviceUse(engine.info.device)
        self._scorer = with_cache(engine, engine.info, entries, self._count)

    @property
    def uses(self) -> Sequence[DeviceUse]:
        return [self._use]

    def begin(self, frames: Sequence[PreparedFrame]) -> Rows:
        return partial(self._score, frames)

    def _score(self, frames: Sequence[PreparedFrame]) -> FloatArray:
        begun = time.monotonic()
        rows = self._scorer.score(frames)
        self._use.add(frames, time.monotonic() - begun)
        return rows

    def _count(self, frames: int) -> None:
        self._use.reused += frames


@contextmanager
def computing_on(
    names: Sequence[str | None], settings: ModelSettings, threads: int | None
) -> Iterator[tuple[ModelOfFiles, Counting]]:
    """Load the model on each of these devices; gives what says how frames are prepared, and what scores them.

    Args:
        names: as of `consumer.cli.files.device_names.device_names`.
        threads: of each process on a processor; None leaves that to torch, or shares the cores out.

    Raises:
        UserError, CoreError: a device cannot load the model.
    """
    from consumer.cli.files.device_names import processes_for, threads_of_each

    if processes := processes_for(names, settings.device):
        from consumer.cli.files.device_pool import DevicePool

        with DevicePool(processes, settings, threads_of_each(processes, threads)) as pool:
            yield pool, pool
        return
    engine = loaded_engine(settings, threads)
    yield engine, OneDevice(engine, settings.frame_cache)
