"""Where and how the models run: device, precision and attention back-ends, and what the device fails with."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from virnucpro_core.bundle.manifest import Manifest
from virnucpro_core.cores import cores
from virnucpro_core.errors import CoreError, DeviceLost, OutOfMemory
from virnucpro_core.models.attention import BackendUnavailable, choose_backend, packed_choice
from virnucpro_core.models.precision import PRECISIONS, Precision
from virnucpro_core.options import AUTO, DEVICE_PATTERN, DEVICES, PRECISION_CHOICES, one_of
from virnucpro_core.wording import one_line

_MEMORY_MESSAGES = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
_DEVICE_MESSAGES = ("CUDA error", "CUBLAS_STATUS_", "CUDNN_STATUS_")


class EngineError(CoreError):
    """The engine cannot be set up as asked; the one-line message says why."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What was asked for, resolved for this machine.

    Attributes:
        device, device_name: with its index; with its product name.
        precision: the number format.
        esm2_backend: attention back-end for ESM-2; None where only the standard path can serve.
        dna_backend: attention back-end for DNABERT-S.
        refusals: back-ends that would come first and why they do not serve, by "model: name".
    """

    device: torch.device
    device_name: str
    precision: Precision
    esm2_backend: str | None
    dna_backend: str
    refusals: dict[str, str]

    @classmethod
    def resolve(cls, device: str, precision: str, backend: str, manifest: Manifest) -> Placement:
        """Resolve, or refuse before anything is loaded.

        A back-end that is asked for by name must serve ESM-2. It serves DNABERT-S too unless it has no ALiBi;
        then the first that has does, and the refusal says so.

        Raises:
            EngineError: this machine does not have the device, or the device cannot serve the precision.
            ValueError: unknown back-end.
            BackendUnavailable: the back-end that is asked for cannot serve.
        """
        where = _device(device)
        chosen = _precision(precision, where, manifest.esm2.dim)
        dtype = chosen.dtype
        esm2, dna = manifest.esm2, manifest.dnabert_s
        esm2_choice = packed_choice(backend, where, dtype, esm2.dim // esm2.heads)
        try:
            dna_choice = choose_backend(backend, where, dtype, dna.dim // dna.heads, alibi=True)
        except BackendUnavailable:
            dna_choice = choose_backend(AUTO, where, dtype, dna.dim // dna.heads, alibi=True)
        refused = {
            "esm2": esm2_choice.refusals if esm2_choice else {},
            "dnabert_s": dna_choice.refusals,
        }
        return cls(
            device=where,
            device_name=f"{where} ({torch.cuda.get_device_name(where)})"
            if where.type == "cuda"
            else str(where),
            precision=chosen,
            esm2_backend=esm2_choice.backend.name if esm2_choice else None,
            dna_backend=dna_choice.backend.name,
            refusals={
                f"{model}: {name}": why for model, whys in refused.items() for name, why in whys.items()
            },
        )


def use_threads(threads: int | None) -> None:
    """Compute with this many threads on the CPU, in this process from now on.

    Args:
        threads: at least 1; None leaves it to OMP_NUM_THREADS or torch, but takes no more than the cores that this
            process may use, unless that variable asks for more.
    """
    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        threads = min(torch.get_num_threads(), cores())
    if threads is not None:
        torch.set_num_threads(threads)


def versions(device: str) -> list[str]:
    """What the speed on a device depends on beside the model: torch's version, and on a CPU the number of threads."""
    return [f"torch={torch.__version__}"] + (
        [f"threads={torch.get_num_threads()}"] if device == "cpu" else []
    )


def _device(name: str) -> torch.device:
    if name == AUTO:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(DEVICE_PATTERN, name):
        raise EngineError(f"unknown device {name!r}: use {DEVICES}")
    device = torch.device(name)
    if device.type != "cuda":
        return device
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= count:
        raise EngineError(f"device {name!r} is not there: torch sees {count} CUDA devices; use auto or cpu")
    return torch.device("cuda", device.index or 0)


def _precision(name: str, device: torch.device, width: int) -> Precision:
    if name == AUTO:
        name = "fp16" if device.type == "cuda" else "fp32"
    if name not in PRECISIONS:
        raise EngineError(f"unknown precision {name!r}: use {one_of(PRECISION_CHOICES)}")
    precision = PRECISIONS[name]
    if reason := precision.refusal(device, width):
        raise EngineError(f"precision {name} {reason}")
    return precision


@contextmanager
def device_errors(device: torch.device) -> Iterator[None]:
    """Turn what torch raises for lack of memory or a lost device into the core's own errors.

    Raises:
        OutOfMemory, DeviceLost: instead of torch's RuntimeError; any other passes through.
    """
    try:
        yield
    except RuntimeError as error:
        message = one_line(error, 300)
        if any(sign in message for sign in _MEMORY_MESSAGES):
            if device.type == "cuda":
                torch.cuda.empty_cache()  # a smaller batch needs other blocks than the ones held back
            raise OutOfMemory(message) from error
        if any(sign in message for sign in _DEVICE_MESSAGES):
            raise DeviceLost(message) from error
        raise
