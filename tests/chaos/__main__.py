"""The service under faults, on a real Kafka.

    python -m tests.chaos --seed 1                            20,000 records, 40 faults, about seven minutes
    python -m tests.chaos --seeds 1,2,3 --report chaos.json
    python -m tests.chaos --seed 1 --delivery at_least_once

Needs Java 17 or newer, Maven, Linux. Exit status 1 if a promise was broken; logs are kept then.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.chaos import run as chaos
from tests.chaos.report import Options
from tests.support.kafka.kraft import missing_tool


class Terminal(chaos.Watcher):
    """Tells events as lines, and progress as a bar where there is a terminal."""

    def __init__(self, options: Options) -> None:
        console = Console(highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._published = self._bar.add_task("published", total=options.records)
        self._answered = self._bar.add_task("answered", total=options.records)
        self._faults = self._bar.add_task("faults", total=options.faults)
        self._console = console

    def __enter__(self) -> Terminal:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def event(self, seconds: float, text: str) -> None:
        self._console.print(f"{seconds:7.1f} s  {text}", markup=False)

    def progress(self, progress: chaos.Progress) -> None:
        self._bar.update(self._published, completed=progress.published)
        self._bar.update(self._answered, completed=progress.answered)
        self._bar.update(self._faults, completed=progress.faults)


def main() -> int:
    options = _arguments()
    if (reason := missing_tool()) is not None:
        raise SystemExit(f"no broker: {reason}")
    begun = time.monotonic()
    reports: list[dict[str, Any]] = []
    for seed in options.seeds:
        reports.append(_one(options, seed))
        if options.report is not None:
            options.report.write_text(json.dumps(reports, indent=2) + "\n")
    passed = sum(report["passed"] for report in reports)
    print(
        f"{passed} of {len(reports)} seeds passed, in {(time.monotonic() - begun) / 60:.1f} minutes",
        flush=True,
    )
    return 0 if passed == len(reports) else 1


def _one(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    options = Options(
        seed, arguments.records, arguments.faults, arguments.every, arguments.delivery, arguments.protocol
    )
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))
    print(f"seed {seed}, {options.delivery}, group protocol {options.protocol}", flush=True)
    passed = False
    begun = time.monotonic()
    try:
        with Terminal(options) as terminal:
            report = chaos.run(options, folder, terminal).as_dict()
        passed = bool(report["passed"])
    finally:
        if passed and not arguments.keep:
            shutil.rmtree(folder)
        else:
            print(f"seed {seed}: everything is kept in {folder}", file=sys.stderr, flush=True)
    print(json.dumps(report, indent=2), flush=True)
    took = time.monotonic() - begun
    print(f"seed {seed}: {'passed' if passed else 'FAILED'} in {took:.0f} s", flush=True)
    return report


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", dest="seeds", type=lambda text: [int(text)], default=[1], metavar="N")
    seeds.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], metavar="N,N")
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--faults", type=int, default=40)
    parser.add_argument(
        "--every", type=float, default=8.0, metavar="SECONDS", help="a fault in each of these"
    )
    parser.add_argument("--delivery", choices=("exactly_once", "at_least_once"), default="exactly_once")
    parser.add_argument(
        "--protocol",
        choices=("classic", "consumer"),
        default="classic",
        help="of the group; consumer is KIP-848",
    )
    parser.add_argument("--keep", action="store_true", help="keep the logs of a run that passed, too")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write what was found as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
