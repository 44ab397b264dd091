"""What of this machine a model can run on: every device in every precision, by which attention, and why not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from virnucpro_core.bundle.manifest import Manifest
from virnucpro_core.models.attention import BackendUnavailable
from virnucpro_core.models.device import EngineError, Placement
from virnucpro_core.models.precision import PRECISIONS
from virnucpro_core.options import AUTO

STANDARD = "standard"
"""ESM-2 on its standard path, where no back-end can serve its packed one."""


@dataclass(frozen=True, slots=True)
class Use:
    """One device in one precision.

    Attributes:
        device: as `--device` takes it.
        product: its name, and its memory on a GPU.
        precision: as `--precision` takes it.
        is_default: what is taken on this device if no precision is asked for.
        esm2, dnabert_s: the attention back-end of either model; None if this cannot be used.
        why_not: then the reason, else None.
        refusals: back-ends that would come first and why they do not serve, by "model: name".
    """

    device: str
    product: str
    precision: str
    is_default: bool = False
    esm2: str | None = None
    dnabert_s: str | None = None
    why_not: str | None = None
    refusals: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def uses(manifest: Manifest) -> Iterator[Use]:
    """Every device in every precision, the one that is taken by default first; the weights are not loaded."""
    for device, product in _devices().items():
        default = Placement.resolve(device, AUTO, AUTO, manifest).precision.name
        for precision in PRECISIONS:
            try:
                place = Placement.resolve(device, precision, AUTO, manifest)
            except (EngineError, BackendUnavailable) as error:
                yield Use(device, product, precision, why_not=str(error))
                continue
            yield Use(
                device,
                product,
                precision,
                is_default=precision == default,
                esm2=place.esm2_backend or STANDARD,
                dnabert_s=place.dna_backend,
                refusals=place.refusals,
            )


def no_gpu() -> str | None:
    """Why there is no GPU to use; None if there is one."""
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return "this torch was built without CUDA: install another build of it to use a GPU"
    return f"torch (for CUDA {torch.version.cuda}) sees no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES"


def gpus() -> list[str]:
    """The GPUs that torch sees, as `--device` takes them."""
    return [name for name in _devices() if name.startswith("cuda")]


def _devices() -> dict[str, str]:
    """The devices by name, those that `auto` takes first."""
    gpus = {}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found = torch.cuda.get_device_properties(index)
        gpus[f"cuda:{index}"] = f"{found.name}, {found.total_memory / 2**30:.0f} GiB"
    threads = torch.get_num_threads()
    return gpus | {"cpu": "1 thread" if threads == 1 else f"{threads} threads"}
