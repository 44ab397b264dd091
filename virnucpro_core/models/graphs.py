"""CUDA graphs: the packed forward of a small batch, recorded once for each of a few numbers of rows, then replayed.

A small batch takes the device less time than its hundreds of kernels take the host to launch. A graph launches all of
them in one call. They are the kernels of the eager forward, and a row's bits do not depend on the number of rows, so
the results are the same bits. Batches that nearly fill a token budget have graphs, too. For them computing takes longer
than launching, but a thread that launches hundreds of kernels waits for Python's lock again and again if other threads
are busy.

A graph's shapes and addresses are fixed: a batch is copied to where the graph reads it (`StaticBatch`), and is padded
to the graph's rows and segments. No batch's rows depend on that padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from virnucpro_core.models.kernels.rotary_attention import query_tiles
from virnucpro_core.models.layout import PackedLayout, for_device

LARGEST = 16384
"""Rows of the largest graph: what a batch has by default on a GPU."""
_STEP = 256
_LAUNCH_BOUND = 2560 * 2048
"""Rows times width up to which a graph is recorded: above, computing takes longer than launching, and padding to the
next graph's rows would cost more than the graph saves. Measured on an H200, ms a forward whose kernels are launched one
by one, and by a graph: 2,560 dimensions (36 layers) at 512 rows 9.2 and 5.9, at 2,048 rows 22.6 and 22.4; 1,280
dimensions (33 layers) at 1,024 rows 5.6 and 3.4, at 4,096 rows 12.0 and 11.9; 320 and 128 gain at any of them."""
_FULL = (4096, 8192, LARGEST)
"""Rows of graphs above that, for batches that nearly fill them: the token budgets that are usual on a GPU."""
_FULL_FROM = 31 / 32
"""How full such a batch is at least: so much is computed for nothing at most."""
_ROWS_A_SEGMENT = 32
"""A graph has room for one segment in so many rows: 30 residues. A batch of more, shorter ones takes a larger graph."""
_ALIGNED = 4  # int32 values: kernels are compiled for addresses that are a multiple of 16 bytes


class Size(NamedTuple):
    """A number of rows for which a forward is recorded, and the fewest rows of a batch that it is to serve."""

    rows: int
    least: int


def sizes_of(dim: int) -> tuple[Size, ...]:
    """The numbers of rows for which the forward of a model of this width is recorded, rising.

    Steps of 256 rows up to 2,048, then four to each doubling, as long as launching takes longer than computing: at most
    a quarter of a graph's rows is padding there. Above, those for batches that are nearly full.
    """
    most = min(LARGEST, _LAUNCH_BOUND // dim)
    small = [Size(rows, 0) for rows in _rising(most)]
    full = [Size(rows, int(_FULL_FROM * rows)) for rows in _FULL if rows > most]
    return (*small, *full)


def _rising(most: int) -> Iterator[int]:
    rows = _STEP
    while rows <= most:
        yield rows
        rows += max(_STEP, (1 << (rows.bit_length() - 1)) // 4)


class StaticBatch:
    """A packed batch at fixed addresses, padded to a fixed number of rows and segments.

    The padding rows are one segment behind those of the batch, as in `PackedLayout`; empty segments follow it.

    Args:
        rows: a multiple of 4.
        device: where it is.
        tile: queries of a tile, see `query_tiles`.

    Attributes:
        ids: int32 [rows]; in the padding rows any id of the vocabulary.
        bounds: int32 [segments + 3].
        segment_ids: int32 [rows], each row's segment.
        tiles: int32 [tiles, 2], of the batch's own segments; what is left over are tiles of an empty segment.
    """

    def __init__(self, rows: int, device: torch.device, tile: int) -> None:
        self.rows = rows
        self.segments = rows // _ROWS_A_SEGMENT + 16
        self._device = device
        self._tile = tile
        self.ids = torch.zeros(rows, dtype=torch.int32, device=device)
        bounds, tiles = self.segments + 3, rows // tile + self.segments
        parts = [-(-bounds // _ALIGNED) * _ALIGNED, rows, 2 * tiles]
        self._moved = torch.zeros(sum(parts), dtype=torch.int32, device=device)
        there = torch.split(self._moved, parts)
        self.bounds, self.segment_ids, self.tiles = there[0][:bounds], there[1], there[2].view(tiles, 2)
        self._place(np.empty(0, dtype=np.int64))  # padding alone: a forward may be recorded of it

    def takes(self, layout: PackedLayout) -> bool:
        """Whether that batch fits."""
        return layout.rows <= self.rows and layout.segments <= self.segments

    def fill(self, ids: Tensor, layout: PackedLayout) -> None:
        """Put a batch that fits here: ids int [layout.rows], on the device."""
        self.ids[: layout.rows].copy_(ids)
        self._place(layout.lengths)

    def _place(self, lengths: NDArray[np.int64]) -> None:
        own, total = len(lengths), int(lengths.sum())
        values = np.zeros(len(self._moved), dtype=np.int32)
        bounds, rest = np.split(values, [len(self._moved) - self.rows - self.tiles.numel()])
        segment_ids, tiles = np.split(rest, [self.rows])
        bounds[: len(self.bounds)] = self.rows
        bounds[0] = 0
        np.cumsum(lengths, out=bounds[1 : own + 1])
        segment_ids[:] = own
        segment_ids[:total] = np.repeat(np.arange(own), lengths)
        tiles[::2] = self.segments + 1  # always empty
        real = query_tiles(lengths, np.ones(own, dtype=np.bool_), self._tile).ravel()
        tiles[: len(real)] = real
        self._moved.copy_(for_device(values, self._device), non_blocking=True)


@dataclass(frozen=True, eq=False, slots=True)
class Recorded:
    """One recorded forward: `replay` computes `out` [rows, dim] again, of what `batch` holds then."""

    batch: StaticBatch
    out: Tensor
    replay: Callable[[], object]


Record = Callable[[StaticBatch], Recorded]


class CudaRecorder:
    """Records forwards as CUDA graphs that share one pool of memory. They must be replayed one after another.

    Args:
        forward: the forward, of device work alone: it never waits for the device, and its shapes depend on the batch's
            shapes alone. It holds on to all tensors that it reads.
        device: a CUDA device.
    """

    def __init__(self, forward: Callable[[StaticBatch], Tensor], device: torch.device) -> None:
        self._forward = forward
        self._device = device
        with torch.cuda.device(device):
            self._pool = torch.cuda.graph_pool_handle()
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, batch: StaticBatch) -> Recorded:
        """Record for batches of that size. The largest comes first: the others then fit into its memory."""
        with torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                self._forward(
                    batch
                )  # compiles kernels and allocates libraries' workspaces, as a recording must not
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on using the device meanwhile.
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                out = self._forward(batch)
            current.wait_stream(self._stream)
        return Recorded(batch, out, graph.replay)


class ForwardGraphs:
    """The recorded forwards of one model.

    Args:
        sizes: for which batches they are, see `sizes_of`.
        longest: tokens of the longest segment that they can serve.
        batch: makes the batch of one of them, given its rows.
        record: records; for example a `CudaRecorder`.

    Attributes:
        sizes: their numbers of rows, rising.
    """

    def __init__(
        self, sizes: Sequence[Size], longest: int, batch: Callable[[int], StaticBatch], record: Record
    ) -> None:
        self.sizes = tuple(size.rows for size in sizes)
        self._least = [size.least for size in sizes]
        self._longest = longest
        # Kept, because the tensors that a recorded forward reads must stay where they are as long as it is replayed.
        self._record = record
        with torch.inference_mode(False), torch.no_grad():
            self._recorded = [record(batch(rows)) for rows in reversed(self.sizes)][::-1]

    def __call__(self, ids: Tensor, layout: PackedLayout) -> Tensor | None:
        """The forward of a batch, or None if it does not fit any graph.

        Args:
            ids: int [layout.rows], on the device.
            layout: the batch's.

        Returns:
            [layout.total, dim], a copy: the next replay does not change it.
        """
        if layout.lengths.max() > self._longest:
            return None
        fitting = (
            each
            for least, each in zip(self._least, self._recorded, strict=True)
            if layout.rows >= least and each.batch.takes(layout)
        )
        chosen = next(fitting, None)
        if chosen is None:
            return None
        chosen.batch.fill(ids, layout)
        chosen.replay()
        return chosen.out[: layout.total].clone()
