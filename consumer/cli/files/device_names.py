"""Which devices `--devices` names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from consumer.cli.error_messages import UserError
from consumer.errors import ExitCode
from virnucpro_core.cores import cores
from virnucpro_core.options import AUTO, DEVICE_PATTERN

ALL = "all"


def device_names(device: str | None, text: str | None) -> Sequence[str | None]:
    """The devices of --device and --devices, None for the one of the settings.

    Args:
        text: a list such as `cuda:0,cuda:1` or `cpu,cpu`, or `all`: every GPU, else the processor.

    Raises:
        UserError: what is not a device, a GPU that is named twice, or both options.
    """
    if text is None:
        return [device]
    if device is not None:
        raise UserError("--device and --devices: leave one of them out", ExitCode.USAGE)
    if text == ALL:
        from virnucpro_core.models.device_list import gpus

        return gpus() or ["cpu"]
    names = ["cuda:0" if part.strip() == "cuda" else part.strip() for part in text.split(",")]
    for name in names:
        if name == AUTO or not re.fullmatch(DEVICE_PATTERN, name):
            raise UserError(
                f"--devices: {name!r} is not a device: give {ALL}, or a list such as cuda:0,cuda:1 or cpu,cpu",
                ExitCode.USAGE,
            )
        if name != "cpu" and names.count(name) > 1:
            raise UserError(
                f"--devices: {name} is named twice, and one process uses it up: name it once", ExitCode.USAGE
            )
    return names


def processes_for(names: Sequence[str | None], device: str) -> list[str]:
    """The devices that get a process of their own: none where the one processor serves, in this process.

    Args:
        names: as of `device_names`.
        device: of the settings.
    """
    several = [name or device for name in names]
    if several == [AUTO]:
        from virnucpro_core.models.device_list import gpus

        several = gpus()[:1] or ["cpu"]
    return [] if several == ["cpu"] else several


def threads_of_each(names: Sequence[str], threads: int | None) -> int | None:
    """Threads of each process: so many as asked for, else the cores shared among those on the processor; None leaves
    it to torch."""
    sharing = names.count("cpu")
    if threads is not None or sharing < 2 or "OMP_NUM_THREADS" in os.environ:
        return threads
    return max(1, cores() // sharing)
