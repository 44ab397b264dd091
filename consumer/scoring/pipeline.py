"""From a raw message to its outcome: preparation threads, the batcher, the one inference thread.

    submit -> [inbox] -> preparation threads -> [batcher] -> inference thread -> [outbox] -> finished

The thread that owns Kafka only ever calls `submit` and `finished`; neither blocks on work. Every queue is
bounded: the inbox and the outbox by the records that admission lets in, the batcher by its backlog of tokens.
A thread that dies takes its exception to the owner, who meets it at the next call of `finished`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from consumer.clock import Clock, Deadline, monotonic
from consumer.scoring.batcher import Batch, Batcher, RecordJob
from consumer.scoring.inference import Inference, Scorer, Suspects, scored
from consumer.scoring.preparation import Preparation
from consumer.types import Finished, Partition, RawMessage, Refused, Source
from virnucpro_core.sequence.prepare import PreparedFrame

log = structlog.get_logger(__name__)

_LOOK_UP_S = 0.5  # how often an idle thread looks whether it should stop


@dataclass(frozen=True, slots=True)
class PipelineLimits:
    """Tokens of a batch, tokens that may wait, seconds a frame waits for company, preparation threads, records held."""

    token_budget: int
    max_tokens: int
    max_wait_s: float
    prepare_threads: int
    max_records: int


class BatchObserver(Protocol):
    """What the pipeline reports about its batches, on the inference thread."""

    def batch_done(self, batch: Batch, seconds: float) -> None:
        """A batch has been scored."""

    def batch_failed(self, kind: str) -> None:
        """One run of the model failed: "out_of_memory" or "error"."""


class Pipeline:
    """Starts its threads at construction; `stop` ends them.

    Args:
        scorer: the model; used by the inference thread alone.
        preparation: message -> frames; used by every preparation thread.
        is_wanted: is a message still worth starting? Asked from any thread.
        suspects: told what goes to the device, before it does.
        after_batch: called on the inference thread with the frames of a batch whose answers are handed over.
    """

    def __init__(
        self,
        scorer: Scorer,
        preparation: Preparation,
        limits: PipelineLimits,
        is_wanted: Callable[[Source], bool],
        observer: BatchObserver,
        suspects: Suspects,
        after_batch: Callable[[Sequence[PreparedFrame]], None] | None = None,
        clock: Clock = monotonic,
    ) -> None:
        self._after_batch = after_batch
        self._preparation, self._is_wanted = preparation, is_wanted
        self._observer, self._clock = observer, clock
        self._inbox: queue.Queue[RawMessage] = queue.Queue(limits.max_records)
        self._outbox: queue.Queue[Finished] = queue.Queue(2 * limits.max_records)
        self._lock = threading.Lock()
        self._preparing = 0
        self._started: set[Source] = set()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._batcher = Batcher(
            limits.token_budget,
            limits.max_wait_s,
            backlog=limits.max_tokens,
            preparing=self._is_preparing,
            taken=self._mark_started,
            clock=clock,
        )
        self._inference = Inference(scorer, self._finish, observer.batch_failed, suspects)
        names = [f"prepare-{number}" for number in range(limits.prepare_threads)]
        self._threads = [self._thread(name, self._prepare_loop) for name in names]
        self._threads.append(self._thread("inference", self._inference_loop))
        for thread in self._threads:
            thread.start()

    @property
    def queued_tokens(self) -> int:
        """Protein tokens that wait for a batch."""
        return self._batcher.queued_tokens

    def submit(self, message: RawMessage) -> None:
        """Take a message; raises queue.Full when more than `max_records` are submitted and not prepared."""
        with self._lock:
            self._preparing += 1
        self._inbox.put_nowait(message)

    def finished(self, timeout: float) -> list[Finished]:
        """What has finished since the last call; waits up to `timeout` seconds for the first of it.

        Raises whatever ended one of the threads.
        """
        if self._failure is not None:
            raise self._failure
        done: list[Finished] = []
        try:
            done.append(self._outbox.get(timeout=timeout) if timeout > 0 else self._outbox.get_nowait())
            while True:
                done.append(self._outbox.get_nowait())
        except queue.Empty:
            return done

    def discard(self) -> None:
        """Drop the queued messages that are no longer wanted and have not been started."""
        for _ in range(self._inbox.qsize()):
            try:
                message = self._inbox.get_nowait()
            except queue.Empty:
                break
            if self._is_wanted(message.source):
                self._inbox.put_nowait(message)
            else:
                with self._lock:
                    self._preparing -= 1
        self._batcher.discard(lambda source: not self._is_wanted(source))

    def has_started(self, partitions: Collection[Partition]) -> bool:
        """Is a record of these partitions on the device, or partly through it?"""
        with self._lock:
            return any(source.partition in partitions for source in self._started)

    def drain(self) -> None:
        """No more is coming for now: send what is queued without waiting for company."""
        self._batcher.drain()

    def stop(self, deadline: Deadline) -> bool:
        """End the threads, dropping what they have not finished; False if one outlived the deadline."""
        self._stopping.set()
        self._batcher.close()
        for thread in self._threads:
            thread.join(deadline.remaining())
        return not any(thread.is_alive() for thread in self._threads)

    # ---- the threads ------------------------------------------------------------------------------------------

    def _thread(self, name: str, loop: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                loop()
            except BaseException as error:  # noqa: BLE001
                log.error("a pipeline thread ended", thread=name, error=str(error))
                self._failure = error  # raised again in `finished`, on the thread that owns the service

        return threading.Thread(target=run, name=name, daemon=True)

    def _prepare_loop(self) -> None:
        while not self._stopping.is_set():
            try:
                message = self._inbox.get(timeout=_LOOK_UP_S)
            except queue.Empty:
                continue
            try:
                if self._is_wanted(message.source):
                    self._prepare(message)
            finally:
                with self._lock:
                    self._preparing -= 1
                self._batcher.notify()

    def _prepare(self, message: RawMessage) -> None:
        prepared = self._preparation(message)
        if isinstance(prepared, Refused):
            self._finish(Finished(message.source, prepared))
            return
        job = RecordJob(message.source, prepared, message.received_at)
        if not prepared.frames:
            self._finish(Finished(message.source, scored(job)))
            return
        while not self._stopping.is_set() and self._is_wanted(message.source):
            if self._batcher.put(job, _LOOK_UP_S):
                return

    def _inference_loop(self) -> None:
        while not self._stopping.is_set():
            batch = self._batcher.next_batch(_LOOK_UP_S)
            if batch is None:
                continue
            begun = self._clock()
            self._inference.run(batch.slots)
            self._observer.batch_done(batch, self._clock() - begun)
            if self._after_batch is not None:
                self._after_batch([slot.frame for slot in batch.slots])

    def _mark_started(self, batch: Batch) -> None:
        with self._lock:
            self._started.update(slot.job.source for slot in batch.slots if slot.job.failure is None)

    def _finish(self, finished: Finished) -> None:
        while not self._stopping.is_set():
            try:
                self._outbox.put(finished, timeout=_LOOK_UP_S)
                break
            except queue.Full:
                continue
        with self._lock:
            self._started.discard(finished.source)

    def _is_preparing(self) -> bool:
        return self._preparing > 0
