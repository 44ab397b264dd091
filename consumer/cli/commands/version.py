"""`virnucpro version`: what is installed, without importing any of it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

from virnucpro_core import __version__

_PARTS = ("torch", "fair-esm", "flash-attn", "confluent-kafka", "fastavro", "tokenizers")


def one_line() -> str:
    """`virnucpro-stream 0.1.0`"""
    return f"virnucpro-stream {__version__}"


def version() -> None:
    """Show the versions of the software and of the libraries that its answers depend on.

    Example: `virnucpro version`
    """
    print(one_line())
    print(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for part in _PARTS:
        try:
            print(f"{part} {installed(part)}")
        except PackageNotFoundError:
            print(f"{part} not installed")
