"""The arguments of a packed forward: checked on the host, brought to the device."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from virnucpro_core.models.layout import PackedLayout, to_device


def packed_inputs(
    input_ids: Tensor,
    cu_seqlens: Tensor | PackedLayout,
    max_seqlen: int,
    vocabulary: int,
    pad_id: int,
    device: torch.device,
    min_rows: int | None = None,
) -> tuple[Tensor, PackedLayout]:
    """Check a packed batch on the host and bring it to the device.

    Args:
        input_ids: int32 or int64 [tokens]. On the host they are checked against the vocabulary; ids that are
            on the device already cannot be without waiting for it, and are the caller's responsibility.
        cu_seqlens: int32 [segments + 1] on the host, or the layout built from it.
        max_seqlen: the longest segment, or more.
        vocabulary: number of ids.
        pad_id: the id of padding rows.
        device: where the forward runs.
        min_rows: as in `PackedLayout.build`; of no effect on a layout that is given.

    Returns:
        ids [rows] and the layout, both on the device.

    Raises:
        ValueError: an argument is not as described; the message says which.
    """
    if input_ids.dtype not in (torch.int32, torch.int64) or input_ids.ndim != 1:
        raise ValueError(
            f"input_ids must be int32 or int64 [tokens], not {input_ids.dtype} {list(input_ids.shape)}"
        )
    total = len(input_ids)
    if isinstance(cu_seqlens, PackedLayout):
        layout = cu_seqlens
        if layout.total != total:
            raise ValueError(f"the layout is of {layout.total} tokens, but there are {total}")
        if layout.device.type != device.type:
            raise ValueError(f"the layout is on {layout.device}, but the model is on {device}")
    else:
        layout = PackedLayout.build(cu_seqlens, total, device, min_rows)
    longest = int(layout.lengths.max())
    if max_seqlen < longest:
        raise ValueError(f"max_seqlen is {max_seqlen}, but the longest segment has {longest} tokens")
    if input_ids.device.type == "cpu":
        ids = input_ids.numpy()
        outside = (ids < 0) | (ids >= vocabulary)
        if outside.any():
            at = int(np.argmax(outside))
            raise ValueError(f"input_ids[{at}] is {ids[at]}, outside the vocabulary of {vocabulary}")
        input_ids = to_device(ids, device)
    return F.pad(input_ids, (0, layout.rows - total), value=pad_id), layout
