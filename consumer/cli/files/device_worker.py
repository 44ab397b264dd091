"""The process of one device of `predict --devices`: it loads the model, then scores the batches that come by a pipe."""

from __future__ import annotations

import queue
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection

from consumer.cli.error_messages import exit_code_of, known_errors
from consumer.config.settings import ModelSettings
from virnucpro_core.errors import DeviceLost, OutOfMemory
from virnucpro_core.scoring.frame_cache import with_cache
from virnucpro_core.scoring.model import EngineInfo, Enqueued, FloatArray, Scorer, WhenRead, queueing
from virnucpro_core.scoring.robust import FAILURES
from virnucpro_core.sequence.prepare import PreparedFrame
from virnucpro_core.sequence.tokens import DnaTokenizer


@dataclass(frozen=True, slots=True)
class Refused:
    """The model cannot be loaded; the message is one line."""

    message: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded, and what the preparation of its frames needs."""

    info: EngineInfo
    default_token_budget: int
    tokenizer: DnaTokenizer


@dataclass(frozen=True, slots=True)
class Scored:
    """The rows of a batch, the seconds that it took, and how many of its frames equal frames had given."""

    rows: FloatArray
    seconds: float
    reused: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The model failed on a batch: the name of the exception, its message, and whether memory ran out."""

    error: str
    message: str
    out_of_memory: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """The device is lost to this process, which ends."""

    message: str


def work(pipe: Connection, settings: ModelSettings, threads: int | None) -> None:
    """Load the model and answer each batch, a list of frames, until the other end is closed.

    The first answer is `Ready` or `Refused`, each later one `Scored`, `Failed` or `Lost`.

    Args:
        settings: name this process's device.
        threads: that compute on the CPU; None leaves that to torch.
    """
    # Ctrl-C reaches every process of a terminal; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _serve(pipe, settings, threads)
    except (BrokenPipeError, ConnectionResetError):  # the parent has ended
        return


def _serve(pipe: Connection, settings: ModelSettings, threads: int | None) -> None:
    from consumer.scoring.loading import load_engine

    try:
        engine = load_engine(settings, threads)
    except known_errors() as error:
        pipe.send(Refused(str(error), exit_code_of(error)))
        return
    reused: list[int] = []
    scorer = with_cache(engine, engine.info, settings.frame_cache, reused.append)
    pipe.send(Ready(engine.info, engine.default_token_budget, engine.tokenizer))
    batches: queue.Queue[Enqueued | None] = queue.Queue(1)
    threading.Thread(target=_receive, args=(pipe, scorer, batches), name="receive", daemon=True).start()
    while (batch := batches.get()) is not None:
        reused.clear()
        answer = _answer(batch, reused)
        pipe.send(answer)
        if isinstance(answer, Lost):
            return


def _receive(pipe: Connection, scorer: Scorer, batches: queue.Queue[Enqueued | None]) -> None:
    """Take the next batch from the pipe, and enqueue it on the device, while one is computed."""
    try:
        with suppress(EOFError, OSError):
            while True:
                batches.put(_enqueued(scorer, pipe.recv()))
    finally:
        batches.put(None)


def _enqueued(scorer: Scorer, frames: list[PreparedFrame]) -> Enqueued:
    try:
        return queueing(scorer).enqueue(frames)
    except FAILURES:
        # For lack of memory beside the batch that runs, most likely; it fails again if it has to.
        return WhenRead(partial(scorer.score, frames))


def _answer(batch: Enqueued, reused: list[int]) -> Scored | Failed | Lost:
    begun = time.monotonic()
    try:
        rows = batch.read()
    except DeviceLost as error:
        return Lost(str(error))
    except FAILURES as error:
        return Failed(type(error).__name__, str(error), isinstance(error, OutOfMemory))
    return Scored(rows, time.monotonic() - begun, sum(reused))
