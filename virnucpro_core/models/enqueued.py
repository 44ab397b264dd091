"""How a batch runs on a device: put into its queue and read later, or computed when it is read.

A GPU computes what is in its queue while the host does something else, so the next batch can wait there when one ends,
and the device goes on at once. A processor has no such queue: computing earlier than the scores are wanted would only
hold up the batch before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from virnucpro_core.errors import NotFinite
from virnucpro_core.models.device import device_errors
from virnucpro_core.scoring.model import Enqueued, FloatArray, WhenRead

ComputeScores = Callable[[], Tensor]
"""Runs the models on one batch: float [frames, columns] on the device."""


class BatchQueue(Protocol):
    """A device, as that which computes one batch after the other. Safe from any thread."""

    def computing(self) -> AbstractContextManager[None]:
        """Around what is computed on the calling thread; waits while another thread computes, or launches.

        Raises:
            OutOfMemory, DeviceLost: instead of torch's errors.
        """

    def enqueue(self, compute: ComputeScores) -> Enqueued:
        """Have a batch computed behind those that were enqueued before.

        Raises:
            OutOfMemory, DeviceLost: or else `Enqueued.read` raises them.
        """


def queue_of(device: torch.device) -> BatchQueue:
    """The way in which this device computes batches."""
    return _DeviceQueue(device) if device.type == "cuda" else _HostTurns(device)


class _HostTurns:
    """A batch is computed when it is read."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._turn = threading.Lock()

    @contextmanager
    def computing(self) -> Iterator[None]:
        with device_errors(self.device), self._turn, torch.inference_mode():
            yield

    def enqueue(self, compute: ComputeScores) -> Enqueued:
        return WhenRead(partial(self._compute, compute))

    def _compute(self, compute: ComputeScores) -> FloatArray:
        with self.computing():
            return on_host(compute(), "scores")


class _DeviceQueue(_HostTurns):
    """The device's own queue: `enqueue` launches everything, and waits for nothing."""

    def enqueue(self, compute: ComputeScores) -> Enqueued:
        with self.computing():
            return _OnDevice(compute().float(), self.device)


class _OnDevice:
    """Scores that the device copies to the host when it has them."""

    def __init__(self, scores: Tensor, device: torch.device) -> None:
        self._device = device
        self._host = torch.empty(scores.shape, dtype=scores.dtype, pin_memory=True)
        self._host.copy_(scores, non_blocking=True)
        # A thread that waits for this event sleeps, so that it takes no processor from the preparation.
        self._copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._copied.record(torch.cuda.current_stream(device))

    def read(self) -> FloatArray:
        with device_errors(self._device):
            self._copied.synchronize()
        return finite(np.array(self._host.numpy()), "scores")


def on_host(values: Tensor, what: str) -> FloatArray:
    """Wait for the values and check them, as `finite` does."""
    return finite(values.float().cpu().numpy(), what)


def finite(values: NDArray[np.float32], what: str) -> FloatArray:
    """The values, float32 [frames, columns].

    Args:
        what: names them in the error.

    Raises:
        NotFinite: one of them is NaN or infinite.
    """
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        raise NotFinite(
            f"{what} of {bad.size} of {len(values)} frames are not finite, the first is frame {bad[0]}"
        )
    return values
