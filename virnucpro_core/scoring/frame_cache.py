"""Equal frames are scored once: within a batch, and as long as the cache remembers them.

A frame's scores do not depend on its neighbours, to the last bit, so an equal frame can have the same row. In fp32 on a
GPU that does not hold (docs/numerics.md); there no scorer is wrapped, so that the bytes of an answer are always those
of a run without a cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b

import numpy as np

from virnucpro_core.scoring.model import EngineInfo, FloatArray, Scorer
from virnucpro_core.scoring.verdicts import CLASSES
from virnucpro_core.sequence.prepare import PreparedFrame

_KEY_BYTES = 16


def frame_key(frame: PreparedFrame) -> bytes:
    """128 bits of BLAKE2b over both token sequences: equal for frames that the model cannot tell apart."""
    digest = blake2b(len(frame.protein_ids).to_bytes(8, "little"), digest_size=_KEY_BYTES)
    digest.update(frame.protein_ids.astype(np.int32, copy=False).tobytes())
    digest.update(frame.dna_ids.astype(np.int32, copy=False).tobytes())
    return digest.digest()


class CachedScorer:
    """A scorer that computes only frames that it does not know.

    The rows of a batch are kept when all of it is computed, so a batch that fails leaves nothing behind and can be
    split as without a cache. The row that was asked for least recently is forgotten first. `score` is called by one
    thread at a time.

    Args:
        scorer: computes the frames that are new, in their order.
        entries: most rows that are kept from one batch to the next; at least 1.
        reused: called with the number of frames of a batch that were not computed, on the calling thread.
    """

    def __init__(self, scorer: Scorer, entries: int, reused: Callable[[int], None]) -> None:
        if entries < 1:
            raise ValueError(f"a cache of {entries} rows: give at least 1")
        self._scorer, self._entries, self._reused = scorer, entries, reused
        # As bytes: an array takes 100 bytes more than its 8 bytes of scores.
        self._rows: OrderedDict[bytes, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def score(self, frames: Sequence[PreparedFrame]) -> FloatArray:
        """As the scorer's own, with its errors.

        Raises:
            ValueError: also if the scorer gives another number of rows, or of columns.
        """
        keys = [frame_key(frame) for frame in frames]
        found: dict[bytes, bytes] = {}
        new: dict[bytes, PreparedFrame] = {}
        for key, frame in zip(keys, frames, strict=True):
            if key in found or key in new:
                continue
            row = self._rows.get(key)
            if row is None:
                new[key] = frame
            else:
                found[key] = row
        if new:
            computed = self._scorer.score(list(new.values()))
            if computed.shape != (len(new), len(CLASSES)):
                raise ValueError(f"the model gave scores of shape {computed.shape} for {len(new)} frames")
            found |= zip(new, (row.astype(np.float32).tobytes() for row in computed), strict=True)
        self._keep(keys, found)
        if len(new) < len(frames):
            self._reused(len(frames) - len(new))
        rows = b"".join(found[key] for key in keys)
        return np.frombuffer(rows, dtype=np.float32).reshape(-1, len(CLASSES)).copy()

    def _keep(self, keys: Sequence[bytes], rows: dict[bytes, bytes]) -> None:
        for key in keys:
            self._rows[key] = rows[key]
            self._rows.move_to_end(key)
        while len(self._rows) > self._entries:
            self._rows.popitem(last=False)


def with_cache(scorer: Scorer, info: EngineInfo, entries: int, reused: Callable[[int], None]) -> Scorer:
    """The scorer behind a cache; itself with 0 entries, and where a row depends on the size of the batch.

    Args:
        info: what computes.
        entries, reused: as of `CachedScorer`.
    """
    return CachedScorer(scorer, entries, reused) if entries and info.is_batch_invariant else scorer
