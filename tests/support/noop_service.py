"""The service with a model that computes nothing: for tests and benchmarks of everything around the model.

    python -m tests.support.noop_service

takes the settings of `virnucpro serve` and runs the same service; only what
`consumer.scoring.model.ModelLoader` gives is
another. It starts in half a second and needs no torch. Every record has one frame (with NOOP_BASES_PER_FRAME in the
environment, one for each so many bases begun), and its id may say more:

    ...!fails     the model raises for any batch that holds it (the record ends in the dead-letter topic)
    ...!kills     the process dies at once, as by SIGKILL, while it is on the device

In the environment: NOOP_TOKENS_PER_S makes the model as slow as that; NOOP_SHA256 makes it another model;
NOOP_VIRUS_SCORE is the score that each record gets (0.75).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from consumer.cli.error_messages import failure_in_the_log
from consumer.config.settings import ServiceSettings, load_settings
from consumer.ops import logs
from consumer.runtime import run_service
from consumer.scoring.model import ServedModel
from virnucpro_core.evaluation.divergence import Divergence
from virnucpro_core.scoring.model import EngineInfo
from virnucpro_core.sequence.prepare import PreparedFrame, PreparedRecord

TOKENS = 100
FAILS, KILLS = "!fails", "!kills"
_PLAIN, _FAILING, _KILLING = 5, 6, 7  # the first token of a frame tells what to do with it


class NoopScorer:
    """Scores by the clock alone."""

    def __init__(self, tokens_per_s: float, virus_score: float = 0.75) -> None:
        self._tokens_per_s = tokens_per_s
        self._scores = np.array([1 - virus_score, virus_score], dtype=np.float32)

    def score(self, frames: Sequence[PreparedFrame]) -> NDArray[np.float32]:
        kinds = {int(frame.protein_ids[0]) for frame in frames}
        time.sleep(sum(frame.tokens for frame in frames) / self._tokens_per_s)
        if _KILLING in kinds:
            os.kill(os.getpid(), signal.SIGKILL)
        if _FAILING in kinds:
            raise RuntimeError("the model cannot take this record")
        return np.tile(self._scores, (len(frames), 1))


def prepare(record_id: str, sequence: str) -> PreparedRecord:
    kinds = {} if "NOOP_MENDED" in os.environ else {FAILS: _FAILING, KILLS: _KILLING}
    kind = kinds.get(record_id[-6:], _PLAIN)
    ids = np.full(TOKENS, kind, dtype=np.int32)
    bases = len(sequence)
    each = int(os.environ.get("NOOP_BASES_PER_FRAME", bases))
    chunks = tuple((start, min(start + each, bases)) for start in range(0, bases, each))
    frames = tuple(PreparedFrame(n, label="F1", protein_ids=ids, dna_ids=ids) for n in range(len(chunks)))
    return PreparedRecord(record_id, bases, chunks, frames)


def load_noop(settings: ServiceSettings, _diverged: Callable[[Divergence | None], None]) -> ServedModel:
    speed = float(os.environ.get("NOOP_TOKENS_PER_S", "inf"))
    sha256 = os.environ.get("NOOP_SHA256", "00" * 32)
    attention: Literal["packed", "v1"] = "v1" if settings.v1_attention else "packed"
    return ServedModel(
        scorer=NoopScorer(speed, float(os.environ.get("NOOP_VIRUS_SCORE", "0.75"))),
        prepare=prepare,
        info=EngineInfo("noop", sha256, 500, attention, "noop", "noop", "fp32", "none"),
        default_token_budget=16_384,
    )


def announce(http: str, bootstrap: str) -> None:
    print(json.dumps({"event": "ready", "http": http, "bootstrap": bootstrap}), flush=True)


def main() -> int:
    logs.configure("info", logs.format_in(os.environ))
    with failure_in_the_log():
        settings = load_settings(os.environ)
        logs.configure(settings.log_level, settings.log_format)
        # Nearly all of its frames are equal, and each is to take its time.
        return run_service(settings.model_copy(update={"frame_cache": 0}), announce, load_noop)


if __name__ == "__main__":
    sys.exit(main())
