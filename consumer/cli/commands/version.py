"""`virnucpro version`: what is installed, without importing any of it."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

from consumer.cli.options import AsJson
from virnucpro_core import __version__

_PARTS = ("torch", "fair-esm", "flash-attn", "confluent-kafka", "fastavro", "tokenizers")


def one_line() -> str:
    """`virnucpro-stream 0.1.0`"""
    return f"virnucpro-stream {__version__}"


def version(as_json: AsJson = False) -> None:
    """Show the versions of the software and of the libraries that its answers depend on.

    Example: `virnucpro version`
    """
    system, parts = f"{platform.system()} {platform.machine()}", {part: _installed(part) for part in _PARTS}
    if as_json:
        own = {"virnucpro-stream": __version__, "python": platform.python_version(), "system": system}
        print(json.dumps(own | parts, indent=2))
        return
    print(one_line())
    print(f"python {platform.python_version()} on {system}")
    for part, number in parts.items():
        print(f"{part} {number or 'not installed'}")


def _installed(part: str) -> str | None:
    try:
        return installed(part)
    except PackageNotFoundError:
        return None
