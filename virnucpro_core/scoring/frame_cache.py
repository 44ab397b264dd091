"""Equal frames are scored once: within a batch, and as long as the cache remembers them.

A frame's scores do not depend on its neighbours, to the last bit, so an equal frame can have the same row. In fp32 on a
GPU that does not hold (docs/numerics.md); there no scorer is wrapped, so that the bytes of an answer are always those
of a run without a cache.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import count

import numpy as np

from virnucpro_core.scoring.model import (
    EngineInfo,
    Enqueued,
    FloatArray,
    InTurn,
    QueueingScorer,
    Scorer,
    queueing,
)
from virnucpro_core.scoring.verdicts import CLASSES
from virnucpro_core.sequence.prepare import PreparedFrame

_KEY_BYTES = 16
_ROW_BYTES = len(CLASSES) * np.dtype(np.float32).itemsize


def frame_key(frame: PreparedFrame) -> bytes:
    """128 bits of BLAKE2b over both token sequences: equal for frames that the model cannot tell apart."""
    digest = blake2b(len(frame.protein_ids).to_bytes(8, "little"), digest_size=_KEY_BYTES)
    digest.update(frame.protein_ids.astype(np.int32, copy=False).tobytes())
    digest.update(frame.dna_ids.astype(np.int32, copy=False).tobytes())
    return digest.digest()


class CachedScorer:
    """A scorer that computes only frames that it does not know.

    The rows of a batch are kept when all of it is computed, so a batch that fails leaves nothing behind and can be
    split as without a cache. The row that was asked for least recently is forgotten first. One thread at a time may
    enqueue batches, and another one read them.

    Args:
        scorer: computes the frames that are new, in their order.
        entries: most rows that are kept from one batch to the next; at least 1.
        reused: called with the number of frames of a batch that were not computed, on the thread that reads it.
    """

    def __init__(self, scorer: Scorer, entries: int, reused: Callable[[int], None]) -> None:
        if entries < 1:
            raise ValueError(f"a cache of {entries} rows: give at least 1")
        self._scorer, self._entries, self._reused = scorer, entries, reused
        self._queue = queueing(scorer)
        # As bytes: an array takes 100 bytes more than its 8 bytes of scores.
        self._rows: OrderedDict[bytes, bytes] = OrderedDict()
        self._last: _CachedBatch | None = None  # the batch that was enqueued last, until it has been read
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def score(self, frames: Sequence[PreparedFrame]) -> FloatArray:
        """As the scorer's own, with its errors.

        Raises:
            ValueError: also if the scorer gives another number of rows, or of columns.
        """
        return self._take(frames, InTurn(self._scorer)).read()

    def enqueue(self, frames: Sequence[PreparedFrame]) -> Enqueued:
        """As the scorer's own; frames that the batch before computes at this moment are left to it."""
        return self._take(frames, self._queue)

    def _take(self, frames: Sequence[PreparedFrame], queue: QueueingScorer) -> _CachedBatch:
        batch = _CachedBatch([frame_key(frame) for frame in frames], self._read)
        new: dict[bytes, PreparedFrame] = {}
        with self._lock:
            batch.before = self._last
            expected = self._last.computes if self._last is not None else frozenset()
            for key, frame in zip(batch.keys, frames, strict=True):
                if key in batch.rows or key in new or key in batch.awaited:
                    continue
                if (row := self._rows.get(key)) is not None:
                    batch.rows[key] = row
                elif key in expected:
                    batch.awaited[key] = frame
                else:
                    new[key] = frame
        batch.computes = frozenset(new)
        if new:
            batch.running = (list(new), queue.enqueue(list(new.values())))
        with self._lock:
            self._last = batch
        return batch

    def _read(self, batch: _CachedBatch) -> FloatArray:
        before, batch.before = batch.before, None
        try:
            if batch.running is not None:
                keys, running = batch.running
                batch.rows |= _rows(keys, running.read())
            # The batch before has been read, but it may have failed.
            left = {
                key: frame for key, frame in batch.awaited.items() if before is None or key not in before.rows
            }
            if before is not None:
                batch.rows |= {key: before.rows[key] for key in batch.awaited.keys() - left.keys()}
            if left:
                batch.rows |= _rows(list(left), self._scorer.score(list(left.values())))
        finally:
            with self._lock:
                if self._last is batch:
                    self._last = None
        self._keep(batch.keys, batch.rows)
        if reused := len(batch.keys) - len(batch.computes) - len(left):
            self._reused(reused)
        rows = b"".join(batch.rows[key] for key in batch.keys)
        return np.frombuffer(rows, dtype=np.float32).reshape(-1, len(CLASSES)).copy()

    def _keep(self, keys: Sequence[bytes], rows: dict[bytes, bytes]) -> None:
        with self._lock:
            for key in keys:
                self._rows[key] = rows[key]
                self._rows.move_to_end(key)
            while len(self._rows) > self._entries:
                self._rows.popitem(last=False)


class _CachedBatch:
    """A batch of which some rows are known, some computed, and some awaited of the batch before."""

    def __init__(self, keys: list[bytes], read: Callable[[_CachedBatch], FloatArray]) -> None:
        self.keys, self._read = keys, read
        self.rows: dict[bytes, bytes] = {}
        self.awaited: dict[bytes, PreparedFrame] = {}
        self.computes: frozenset[bytes] = frozenset()
        self.running: tuple[list[bytes], Enqueued] | None = None
        self.before: _CachedBatch | None = None

    def read(self) -> FloatArray:
        return self._read(self)


def _rows(keys: Sequence[bytes], computed: FloatArray) -> dict[bytes, bytes]:
    """Each row as bytes; ValueError unless there is one of two columns for each key."""
    if computed.shape != (len(keys), len(CLASSES)):
        raise ValueError(f"the model gave scores of shape {computed.shape} for {len(keys)} frames")
    every = np.ascontiguousarray(computed, dtype=np.float32).tobytes()
    return {
        key: every[place : place + _ROW_BYTES] for key, place in zip(keys, count(0, _ROW_BYTES), strict=False)
    }


def with_cache(scorer: Scorer, info: EngineInfo, entries: int, reused: Callable[[int], None]) -> Scorer:
    """The scorer behind a cache; itself with 0 entries, and where a row depends on the size of the batch.

    Args:
        info: what computes.
        entries, reused: as of `CachedScorer`.
    """
    return CachedScorer(scorer, entries, reused) if entries and info.is_batch_invariant else scorer
