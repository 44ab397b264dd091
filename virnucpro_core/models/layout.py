"""Where the segments of a packed batch lie: checked and laid out on the host once, moved to the device once.

Everything that a forward needs to know about lengths is derived here from the host's copy of `cu_seqlens`, so
that no forward ever asks the device for a number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WIDTH_STEP = 32
"""Padded segments are as wide as their own length rounded up to this: never as wide as a neighbour wants."""
PADDED_TOKENS = 4096
"""Most tokens, padding included, of one padded sub-batch (one segment may be larger): bounds the memory."""
_MIN_ROWS = {"cpu": 32}
_MIN_ROWS_ELSEWHERE = 256
"""With fewer rows a matrix library takes other kernels, with other bits: small batches get padding rows."""


def to_device(array: NDArray[np.int32] | NDArray[np.int64], device: torch.device) -> Tensor:
    """The array on the device; from pinned memory, so that the host does not wait for the copy."""
    return for_device(array, device).to(device, non_blocking=True)


def for_device(array: NDArray[np.int32] | NDArray[np.int64], device: torch.device) -> Tensor:
    """The array on the host, in pinned memory if the device copies from that without a wait."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory() if device.type == "cuda" else tensor


@dataclass(frozen=True, eq=False, slots=True)
class Bucket:
    """Segments of one padded width.

    Attributes:
        gather: int64 [segments, width], the packed row behind each padded place. Padding repeats the
            segment's own first row, so that not even a neighbour's NaN can reach it.
        valid: bool [segments, width], False on padding.
    """

    gather: Tensor
    valid: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class PaddedPlan:
    """How to pad packed rows into `buckets`, and back.

    Attributes:
        buckets: by rising width, each of at most `PADDED_TOKENS` places unless it is a single segment.
        restore: int64 [packed], for each packed row its place in the buckets' places, concatenated.
    """

    buckets: tuple[Bucket, ...]
    restore: Tensor

    def repack(self, padded: list[Tensor]) -> Tensor:
        """[packed, ...] from one [segments, width, ...] tensor per bucket."""
        return torch.cat([part.flatten(0, 1) for part in padded]).index_select(0, self.restore)


@dataclass(frozen=True, eq=False)
class PackedLayout:
    """The segments of one packed batch. Make it with `PackedLayout.build`.

    Attributes:
        lengths: int64 [segments], on the host.
        total: tokens.
        rows: tokens and padding rows; the padding rows form one more segment at the end.
        device: where the tensors are.
        cu_seqlens: int32 [segments + 1, or + 2 with padding rows], on the device.
        max_seqlen: the longest segment, the padding rows' included.
        positions: int64 [rows], each row's place in its segment, on the device.
        segment_ids: int64 [rows], each row's segment, on the device.
    """

    lengths: NDArray[np.int64]
    total: int
    rows: int
    device: torch.device
    cu_seqlens: Tensor = field(repr=False)
    max_seqlen: int
    positions: Tensor = field(repr=False)
    segment_ids: Tensor = field(repr=False)

    @classmethod
    def build(
        cls,
        cu_seqlens: NDArray[np.int32] | Tensor,
        total: int,
        device: torch.device | str,
        min_rows: int | None = None,
    ) -> PackedLayout:
        """Check `cu_seqlens` and lay the batch out.

        Args:
            cu_seqlens: int32 [segments + 1] on the host: 0, l1, l1 + l2, ..., `total`.
            total: number of packed tokens.
            device: where the forward will run.
            min_rows: pad to this many rows; by default what the device needs for the same bits at any size.

        Raises:
            ValueError: `cu_seqlens` is not as described; the message says in what.
        """
        device = torch.device(device)
        lengths = _checked_lengths(cu_seqlens, total)
        if min_rows is None:
            min_rows = _MIN_ROWS.get(device.type, _MIN_ROWS_ELSEWHERE)
        rows = max(total, min_rows)
        every = np.append(lengths, rows - total) if rows > total else lengths
        starts = np.concatenate([[0], np.cumsum(every)])
        segment_ids = np.repeat(np.arange(len(every)), every)
        positions = np.arange(rows) - starts[segment_ids]
        moved = to_device(np.concatenate([starts, positions, segment_ids]), device)
        bounds, positions_there, segments_there = torch.split(moved, [len(starts), rows, rows])
        return cls(
            lengths=lengths,
            total=total,
            rows=rows,
            device=device,
            cu_seqlens=bounds.to(torch.int32),
            max_seqlen=int(every.max()),
            positions=positions_there,
            segment_ids=segments_there,
        )

    @property
    def segments(self) -> int:
        """Number of segments, without the padding rows."""
        return len(self.lengths)

    @property
    def token_bounds(self) -> Tensor:
        """int32 [segments + 1], on the device: `cu_seqlens` without the padding rows."""
        return self.cu_seqlens[: self.segments + 1]

    @cached_property
    def padded_rows(self) -> PaddedPlan:
        """How to pad all rows, the padding rows' segment included; made and moved on first use."""
        if self.rows == self.total:
            return self.padded_tokens
        return _plan(np.append(self.lengths, self.rows - self.total), self.device)

    @cached_property
    def padded_tokens(self) -> PaddedPlan:
        """How to pad the tokens, without the padding rows; made and moved on first use."""
        return _plan(self.lengths, self.device)


def _plan(lengths: NDArray[np.int64], device: torch.device) -> PaddedPlan:
    starts = np.cumsum(lengths) - lengths
    widths = -(-lengths // WIDTH_STEP) * WIDTH_STEP
    restore = np.empty(lengths.sum(), dtype=np.int64)
    gathers, members, place = [], [], 0
    for width in np.unique(widths):
        group = np.flatnonzero(widths == width)
        step = max(1, PADDED_TOKENS // int(width))
        for first in range(0, len(group), step):
            chosen = group[first : first + step]
            offsets = np.arange(width)
            valid = offsets < lengths[chosen, None]
            gather = starts[chosen, None] + np.where(valid, offsets, 0)
            restore[gather[valid]] = place + np.flatnonzero(valid)
            gathers.append(gather)
            members.append(chosen)
            place += gather.size
    parts = [part.ravel() for part in (*gathers, *(lengths[chosen] for chosen in members), restore)]
    moved = torch.split(to_device(np.concatenate(parts), device), [part.size for part in parts])
    buckets = []
    for gather, there, its_lengths in zip(gathers, moved, moved[len(gathers) :], strict=False):
        valid_there = torch.arange(gather.shape[1], device=device) < its_lengths[:, None]
        buckets.append(Bucket(there.view(gather.shape), valid_there))
    return PaddedPlan(tuple(buckets), moved[-1])


def _checked_lengths(cu_seqlens: NDArray[np.int32] | Tensor, total: int) -> NDArray[np.int64]:
    if isinstance(cu_seqlens, Tensor):
        if cu_seqlens.device.type != "cpu":
            raise ValueError(
                "cu_seqlens must be on the host: pass the CPU tensor, or a PackedLayout built from it"
            )
        if cu_seqlens.dtype != torch.int32:
            raise ValueError(f"cu_seqlens must be int32, not {cu_seqlens.dtype}")
        cu_seqlens = cu_seqlens.numpy()
    if cu_seqlens.dtype != np.int32:
        raise ValueError(f"cu_seqlens must be int32, not {cu_seqlens.dtype}")
    if cu_seqlens.ndim != 1 or len(cu_seqlens) < 2:
        raise ValueError(
            f"cu_seqlens must be [segments + 1] with at least one segment, not {cu_seqlens.shape}"
        )
    if cu_seqlens[0] != 0:
        raise ValueError(f"cu_seqlens must start at 0, not {cu_seqlens[0]}")
    bounds = cu_seqlens.astype(np.int64)
    lengths = bounds[1:] - bounds[:-1]
    if (lengths < 0).any():
        raise ValueError(f"cu_seqlens must increase, but falls after entry {int(np.argmax(lengths < 0))}")
    if (lengths == 0).any():
        raise ValueError(f"segment {int(np.argmax(lengths == 0))} has length 0")
    if cu_seqlens[-1] != total:
        raise ValueError(f"cu_seqlens ends at {cu_seqlens[-1]}, but there are {total} tokens")
    return lengths
