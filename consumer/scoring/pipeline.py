"""From a raw message to its outcome: preparation threads, the batcher, the inference thread, assembly.

    submit -> [inbox] -> preparation -> [batcher] -> stage -> [device] -> inference -> [done] -> assemble -> [outbox]

The thread that owns Kafka only ever calls `submit` and `finished`; neither blocks on work. The stage thread takes the
next batch, writes down its suspects and enqueues it on the device, late in the time of the batch before it
(`staging.py`). The inference thread reads what the device has computed, and runs what failed once more; on a processor
it computes. The assemble thread turns scores into answers. A message whose codec waits for a dependency is tried again
later (`delayed.py`).
Partitions take turns in the inbox and in the batcher, so that none keeps the others waiting.
Every queue is bounded: the inbox, `done` and the outbox by the records that admission lets in, the batcher by its
backlog of tokens and a record for each preparation thread. A thread that dies takes its exception to the owner, who
gets it at the next call of `finished`.

Several devices are several such pairs of stage and inference threads on one batcher.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import structlog

from consumer.clock import Deadline, monotonic
from consumer.scoring.batcher import Batch, Batcher, JobSlot, RecordJob
from consumer.scoring.delayed import DelayedMessages
from consumer.scoring.inbox import Inbox, Waiting
from consumer.scoring.inference import Inference, Running, Suspects, finished
from consumer.scoring.preparation import Preparation
from consumer.scoring.staging import Staging
from consumer.stage_times import StageTimes
from consumer.types import Finished, NotNow, Partition, RawMessage, Refused, Source
from virnucpro_core.scoring.model import Scorer
from virnucpro_core.scoring.pending import by_record
from virnucpro_core.sequence.prepare import PreparedFrame, PreparedRecord

log = structlog.get_logger(__name__)

T = TypeVar("T")
_Scored = tuple[RecordJob, Refused | None]

_PREPARE_STAGES = ("wait", "prepare")
_LOOK_UP_S = 0.5  # how often an idle thread looks whether it should stop
_TOKENS_PER_BYTE = 0.4  # until messages have been prepared: one open frame for every base
_BYTES_OF_A_MEAN = 20_000  # of messages prepared, over which the tokens for each byte are averaged


@dataclass(frozen=True, slots=True)
class PipelineLimits:
    """Tokens of a batch, tokens that may wait, seconds a frame waits for company, preparation threads, records held."""

    token_budget: int
    max_tokens: int
    max_wait_s: float
    prepare_threads: int
    max_records: int


class PipelineListener(Protocol):
    """What the pipeline reports; called on its threads, so a listener must be safe from any of them."""

    def batch_done(self, batch: Batch, seconds: float) -> None:
        """A batch has been scored."""

    def batch_failed(self, kind: str) -> None:
        """One run of the model failed: "out_of_memory" or "error"."""

    def computed(self, protein_tokens: int, nucleotide_tokens: int) -> None:
        """The model was given frames of so many tokens to compute."""

    def frames_reused(self, frames: int) -> None:
        """So many frames of a batch were not computed, since equal ones had been."""

    def record_delayed(self) -> None:
        """A record cannot be prepared now and will be tried again."""


class Pipeline:
    """Starts its threads at construction; `stop` ends them.

    Args:
        scorer: the model; the stage thread enqueues, where it has a queue, and the inference thread reads.
        preparation: message -> frames; used by every preparation thread.
        is_wanted: whether a message should still be started. Called on any thread; once False it stays False.
        suspects: notified of what goes to the device, before it does.
        after_batch: called on the inference thread with the frames of a batch that has run.
    """

    def __init__(
        self,
        scorer: Scorer,
        preparation: Preparation,
        limits: PipelineLimits,
        is_wanted: Callable[[Source], bool],
        listener: PipelineListener,
        suspects: Suspects,
        after_batch: Callable[[Sequence[PreparedFrame]], None] | None = None,
    ) -> None:
        self._preparation, self._is_wanted = preparation, is_wanted
        self._listener, self._suspects, self._after_batch = listener, suspects, after_batch
        self._delayed = DelayedMessages()
        self._enqueued: queue.Queue[tuple[Batch, Running]] = queue.Queue(1)
        # Of the batch that is read, and handed on together: a thread that is woken for each record costs more than it.
        self._scored: list[_Scored] = []
        self._done: queue.Queue[list[_Scored]] = queue.Queue(2 * limits.max_records)
        self._outbox: queue.Queue[list[Finished]] = queue.Queue(2 * limits.max_records)
        self._lock = threading.Lock()
        self._preparing = 0
        self._device_idle = False
        self._staging = Staging()
        self._started: set[Source] = set()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._batcher = Batcher(
            limits.token_budget,
            limits.max_wait_s,
            backlog=limits.max_tokens,
            preparing=self._is_preparing,
            device_idle=lambda: self._device_idle,
        )
        self._inbox = Inbox(limits.max_records, self._batcher.has_room)
        self._tokens_per_byte = _TOKENS_PER_BYTE
        self._inference = Inference(scorer, self._record_done, listener.batch_failed, suspects)
        loops: dict[str, tuple[Callable[[StageTimes], None], tuple[str, ...]]] = {
            f"prepare-{number}": (self._prepare_loop, _PREPARE_STAGES)
            for number in range(limits.prepare_threads)
        }
        loops |= {
            "prepare-large": (partial(self._prepare_loop, large=True), _PREPARE_STAGES),
            "stage": (self._stage_loop, ("wait", "write_suspects", "enqueue")),
            "inference": (self._inference_loop, ("wait", "infer", "compare")),
            "assemble": (self._assemble_loop, ("wait", "assemble")),
        }
        self.stage_times = tuple(StageTimes(name, stages) for name, (_, stages) in loops.items())
        self._threads = [
            self._thread(times, loop)
            for times, (loop, _) in zip(self.stage_times, loops.values(), strict=True)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def queued_tokens(self) -> int:
        """Protein tokens that wait for a batch, those of messages that are not prepared yet estimated."""
        return sum(self.tokens_by_partition().values())

    def tokens_by_partition(self) -> Mapping[Partition, int]:
        """The same, of each partition that has any."""
        tokens = Counter(self._batcher.tokens_by_partition())
        for partition, size in self._inbox.bytes_by_partition.items():
            tokens[partition] += int(size * self._tokens_per_byte)
        return tokens

    @property
    def tokens_per_byte(self) -> float:
        """Protein tokens for each byte of a message's value, a mean over the latest ones."""
        return self._tokens_per_byte

    @property
    def queued_bytes(self) -> Mapping[str, int]:
        """Bytes in the queues that a backlog fills: values that wait for preparation, token ids for a batch."""
        return {
            "inbox": sum(self._inbox.bytes_by_partition.values()),
            "batcher": self._batcher.queued_bytes,
        }

    @property
    def delayed_records(self) -> int:
        """Records that wait for a dependency to answer."""
        return len(self._delayed)

    def submit(self, message: RawMessage) -> None:
        """Take a message; raises queue.Full when more than `max_records` are submitted and not prepared."""
        with self._lock:
            self._preparing += 1
        self._inbox.put(Waiting(message))

    def finished(self, timeout: float) -> list[Finished]:
        """What has finished since the last call; waits up to `timeout` seconds for the first of it.

        Raises whatever ended one of the threads.
        """
        if self._failure is not None:
            raise self._failure
        done: list[Finished] = []
        try:
            done += self._outbox.get(timeout=timeout) if timeout > 0 else self._outbox.get_nowait()
            while True:
                done += self._outbox.get_nowait()
        except queue.Empty:
            return done

    def discard(self) -> None:
        """Drop the queued messages that are no longer wanted and have not been started."""
        dropped = self._inbox.discard(lambda source: not self._is_wanted(source))
        with self._lock:
            self._preparing -= dropped
        self._delayed.discard(lambda source: not self._is_wanted(source))
        self._batcher.discard(lambda source: not self._is_wanted(source))
        self._inbox.notify()

    def has_started(self, partitions: Collection[Partition]) -> bool:
        """Whether a record of these partitions is on the device, or partly scored."""
        with self._lock:
            return any(source.partition in partitions for source in self._started)

    def drain(self) -> None:
        """No more is coming for now: send what is queued without waiting for company."""
        self._batcher.drain()

    def stop(self, deadline: Deadline) -> bool:
        """End the threads, dropping what they have not finished; False if one outlived the deadline."""
        self._stopping.set()
        self._inbox.close()
        self._batcher.close()
        for thread in self._threads:
            thread.join(deadline.remaining())
        return not any(thread.is_alive() for thread in self._threads)

    # ---- the threads ------------------------------------------------------------------------------------------

    def _thread(self, times: StageTimes, loop: Callable[[StageTimes], None]) -> threading.Thread:
        def run() -> None:
            try:
                loop(times)
            except BaseException as error:  # noqa: BLE001
                log.error("pipeline_thread_ended", thread=times.thread, error=str(error))
                self._failure = error  # raised again in `finished`, on the thread that owns the service

        return threading.Thread(target=run, name=times.thread, daemon=True)

    def _prepare_loop(self, times: StageTimes, large: bool = False) -> None:
        while not self._stopping.is_set():
            while (due := self._delayed.take_due()) is not None:
                with self._lock:
                    self._preparing += 1
                self._inbox.put(Waiting(*due))
            if (waiting := self._inbox.take(large, self._delayed.due_in(_LOOK_UP_S))) is not None:
                times.enter("prepare")
                self._prepare(*waiting)
                times.enter("wait")

    def _prepare(self, message: RawMessage, tries: int) -> None:
        """Prepare a message, which counts as being prepared until this returns."""
        try:
            if self._is_wanted(message.source):
                self._prepare_wanted(message, tries)
        finally:
            with self._lock:
                self._preparing -= 1
                is_last = not self._preparing
            if is_last:
                self._batcher.notify()

    def _prepare_wanted(self, message: RawMessage, tries: int) -> None:
        prepared = self._preparation(message)
        if isinstance(prepared, NotNow):
            self._delayed.add(message, tries + 1, prepared.detail)
            self._listener.record_delayed()
            return
        if tries:
            self._delayed.prepared()
        if isinstance(prepared, Refused):
            self._finish([Finished(message.source, prepared)])
            return
        self._estimate(message, prepared)
        job = RecordJob(prepared, message.source, monotonic())
        if not prepared.frames:
            self._finish([finished(job)])
        elif self._is_wanted(message.source):
            self._batcher.put(job)

    def _estimate(self, message: RawMessage, prepared: PreparedRecord) -> None:
        """Learn how many tokens a byte becomes: a mean over the latest records, each with the weight of its size."""
        size = max(1, len(message.value or b""))
        weight = min(1.0, size / _BYTES_OF_A_MEAN)
        self._tokens_per_byte += weight * (prepared.tokens / size - self._tokens_per_byte)

    def _stage_loop(self, times: StageTimes) -> None:
        """Take the next batch, write down its suspects and enqueue it, while the device computes the one before it."""
        while not self._stopping.is_set():
            if not self._staging.wait(_LOOK_UP_S):
                continue
            slots: list[JobSlot] = []
            while not slots and not self._stopping.is_set():
                if (batch := self._batcher.next_batch(_LOOK_UP_S)) is None:
                    continue
                self._inbox.notify()
                slots = self._start(batch)
                if slots:
                    times.enter("write_suspects")
                    begun = monotonic()
                    self._suspects.announced([record[0].record for record in by_record(slots)])
                    times.enter("enqueue")
                    running = self._inference.enqueue(slots)
                    self._staging.enqueued(monotonic() - begun)
                    # There is room: one batch is enqueued at a time.
                    self._enqueued.put((batch, running))
                    times.enter("wait")

    def _inference_loop(self, times: StageTimes) -> None:
        while not self._stopping.is_set():
            self._device_idle = True
            self._batcher.notify()
            try:
                batch, running = self._enqueued.get(timeout=_LOOK_UP_S)
            except queue.Empty:
                continue
            times.enter("infer")
            self._device_idle = False
            self._suspects.begins()
            begun = monotonic()
            # Nothing is enqueued behind a batch that is run now, since it may hold a record that is to run alone.
            tokens = running.tokens if running.enqueued is not None else 0
            if tokens:
                self._staging.begins(tokens)
            try:
                self._inference.finish(running)
            finally:
                self._hand_over()
            seconds = monotonic() - begun
            if not tokens:
                self._staging.begins(0)
            self._staging.ended(tokens, seconds)
            self._listener.batch_done(batch, seconds)
            if self._after_batch is not None:
                times.enter("compare")
                self._after_batch([slot.frame for slot in running.slots])
            times.enter("wait")

    def _start(self, batch: Batch) -> list[JobSlot]:
        """The frames of a batch that go to the device, without those of records dropped since they were queued.

        Together with `discard` and `has_started`, which are called in this order after a record is no longer
        wanted: a record is either dropped here, or seen as started there.
        """
        with self._lock:
            slots = [
                slot
                for slot in batch.slots
                if slot.record.failure is None
                and (slot.record.source in self._started or self._is_wanted(slot.record.source))
            ]
            self._started.update(slot.record.source for slot in slots)
        return slots

    def _record_done(self, job: RecordJob, refused: Refused | None) -> None:
        self._scored.append((job, refused))

    def _hand_over(self) -> None:
        """Give the records that are done to the thread that assembles."""
        scored, self._scored = self._scored, []
        if scored:
            self._put(self._done, scored)

    def _assemble_loop(self, times: StageTimes) -> None:
        while not self._stopping.is_set():
            try:
                scored = self._done.get(timeout=_LOOK_UP_S)
            except queue.Empty:
                continue
            times.enter("assemble")
            self._finish([finished(job, refused) for job, refused in scored])
            times.enter("wait")

    def _finish(self, done: list[Finished]) -> None:
        self._put(self._outbox, done)
        with self._lock:
            self._started.difference_update(each.source for each in done)

    def _put(self, room: queue.Queue[T], item: T) -> None:
        while not self._stopping.is_set():
            try:
                room.put(item, timeout=_LOOK_UP_S)
                return
            except queue.Full:
                continue

    def _is_preparing(self) -> bool:
        return self._preparing > 0
