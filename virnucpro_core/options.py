"""What can be asked for by name: devices, precisions, attention back-ends, and the rule by which a record is viral.

Without torch, so that the command line and the settings can check a name before anything is loaded. What carries
the names of precisions and back-ends, `virnucpro_core.models.precision.PRECISIONS` and
`virnucpro_core.models.attention.BACKENDS`, has exactly these; a test compares them.
"""

from __future__ import annotations

from typing import Literal, get_args

AUTO = "auto"
"""Take what is best on this machine."""

DEVICE_PATTERN = r"^(auto|cpu|cuda(:[0-9]+)?)$"
DEVICES = "auto, cpu, cuda or cuda:N"
"""What `DEVICE_PATTERN` takes, for people."""

PrecisionChoice = Literal["auto", "fp32", "fp16", "bf16", "fp8-ffn", "fp8"]
"""`fp8` computes the query, key and value projections and the feed-forward of ESM-2's layers in fp8, `fp8-ffn` the
feed-forward alone."""
BackendChoice = Literal["auto", "flash_attn", "varlen", "sdpa"]

VirusBy = Literal["verdict", "call", "probability"]
"""By which rule a record goes into a file of viruses: VirNucPro's, the contig rule, or its probability."""

PRECISION_CHOICES: tuple[str, ...] = get_args(PrecisionChoice)
BACKEND_CHOICES: tuple[str, ...] = get_args(BackendChoice)


def one_of(choices: tuple[str, ...]) -> str:
    """`a, b or c`, for people."""
    *first, last = choices
    return f"{', '.join(first)} or {last}"
