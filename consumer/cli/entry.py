"""What the command `virnucpro` starts with: nothing is imported before Ctrl-C has its meaning."""

from __future__ import annotations

import os

_INTERRUPTED = 130


def main() -> None:
    """Import the command line and run it; Ctrl-C meanwhile ends the process with its documented exit code."""
    try:
        from consumer.cli.app import main as run
    except KeyboardInterrupt:
        os._exit(_INTERRUPTED)
    run()
