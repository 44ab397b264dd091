"""How long commands take to start: `make bench-start`.

    python -m benchmarks.start [--rounds 5] [--folder DIR]

`virnucpro --help`; `virnucpro predict` of one record of 500 bases with the bundled model on a CPU; `virnucpro serve`
with it, on its own broker, until it says that it is ready; and, since most of the last two is torch, `import torch`
alone. One uncounted round brings the files into memory.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.files import write_records
from benchmarks.machine import RESULTS, ROOT, about, figure, save
from tests.support.harness import environment, serving

_HELP_ROUNDS = 2
"""As many of the quick command for one of the others."""


def command(*arguments: str) -> None:
    """Run a program of this environment to its end; raises CalledProcessError if it fails."""
    subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
        timeout=120,
    )


def seconds(work: Callable[[], object]) -> float:
    """Of one run."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def ready_s(folder: Path) -> float:
    """From the start of `serve` to its line that says where it can be reached."""
    begun = time.perf_counter()
    with serving(folder / "serve.log", VIRNUCPRO_DEVICE="cpu") as serve:
        took = time.perf_counter() - begun
        serve.stop()
    return took


def measure(folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of each, in turns."""
    path = folder / "one.fasta"
    write_records(path, 1)
    cli = ("-m", "consumer.cli.app")
    work: dict[str, Callable[[], float]] = {
        "virnucpro --help": lambda: seconds(lambda: command(*cli, "--help")),
        "import torch": lambda: seconds(lambda: command("-c", "import torch")),
        "virnucpro predict, one record": lambda: seconds(
            lambda: command(*cli, "predict", str(path), "--device", "cpu", "--quiet")
        ),
        "virnucpro serve, until ready": lambda: ready_s(folder),
    }
    took: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, run in work.items():
            for _ in range(_HELP_ROUNDS if name.endswith("--help") else 1):
                once = run()
                if number:
                    took[name].append(once)
    return {name: figure(times) for name, times in took.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where start.json is written")
    options = parser.parse_args()
    result: dict[str, Any] = {"about": about()}
    with tempfile.TemporaryDirectory() as folder:
        result["seconds"] = measure(Path(folder), options.rounds)
    print(save("start", result, options.folder).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
