"""Fuzz one target, led by which lines an input reaches: python -m tests.fuzz TARGET [options of libFuzzer]

Needs atheris; `make fuzz` installs it apart and runs all targets. A defect ends the run, and the input is left in a
file whose name is printed; `python -m tests.fuzz TARGET FILE` runs it again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["schemas", "virnucpro_core"]):
    from tests.fuzz.targets import MOST_BYTES, TARGETS

INPUT_S, MEMORY_MB = 10, 3000


def main() -> None:
    program, name, *options = sys.argv
    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(target.seeds()):
            (Path(corpus) / f"seed-{number}").write_bytes(seed)
        bounds = [
            f"-max_len={MOST_BYTES}",
            f"-timeout={INPUT_S}",
            f"-rss_limit_mb={MEMORY_MB}",
            "-print_final_stats=1",
        ]
        replayed = any(not option.startswith("-") for option in options)
        atheris.Setup([program, *bounds, *options, *([] if replayed else [corpus])], target.run)
        atheris.Fuzz()


main()
