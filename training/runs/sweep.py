"""Tries several recipes, side by side on all GPUs, and writes the table of what each gave on the dev split.

    python -m training.runs.sweep --data DATA --out OUT --attempts training/sweep.toml

An attempt is a trial (training.runs.train_head) of recipe.toml with some settings changed. Attempts that
share tables or
encoders share their making. Writes OUT/attempts.json and OUT/attempts.md; what each attempt prints is in
OUT/attempts/NAME/log.jsonl. What is done already is not done again, and with --minutes the command ends in time, to
go on when it is given again.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from training.data.corpus import DEV, VALIDATION
from training.progress import log
from training.recipe import DEFAULT, Recipe
from training.runs.pretrain import LENGTH, encoders_file
from training.runs.train_head import report_file
from training.runs.workspace import TRIAL, Workspace, options, workspace

ATTEMPTS = DEFAULT.with_name("attempts.toml")
TOO_LATE = "out of time: give the command again"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One recipe that is tried: its name, why, and the settings that it changes, as for --set."""

    name: str
    why: str
    changes: tuple[str, ...]


def read(path: Path, recipe: Path = DEFAULT) -> list[Attempt]:
    """The attempts of a file: a section each, with `why` and `set`, a list of settings.

    Raises:
        ValueError: a section lacks one of the two or has more, or a setting is not one of the recipe.
        OSError: a file cannot be read.
    """
    found = []
    for name, content in tomllib.loads(path.read_text(encoding="utf-8")).items():
        if not isinstance(content, dict) or set(content) != {"why", "set"}:
            raise ValueError(f"{name}: an attempt has `why` and `set`, and nothing else")
        Recipe.load(recipe, content["set"])
        found.append(Attempt(name, str(content["why"]), tuple(content["set"])))
    return found


Job = Callable[[str, float], None]


class Runner:
    """Runs commands, one on each device at a time, all within one deadline (seconds from now).

    A device is "cpu" or "cuda:N"; a command on a GPU sees that one alone.
    """

    def __init__(self, devices: Sequence[str], seconds: float) -> None:
        self._free: queue.SimpleQueue[str] = queue.SimpleQueue()
        for device in devices:
            self._free.put(device)
        self._workers = len(devices)
        self._end = time.monotonic() + seconds

    def run(self, jobs: Iterable[tuple[Job, Iterable[Job]]]) -> None:
        """Run the first of each pair, and after it those that waited for it.

        A job gets a device and the seconds that are left.
        """
        with ThreadPoolExecutor(self._workers) as pool:
            waiting = {pool.submit(self._one, job): followers for job, followers in jobs}
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    future.result()
                    waiting |= {pool.submit(self._one, job): () for job in waiting.pop(future)}

    def _one(self, job: Job) -> None:
        device = self._free.get()  # as many as threads: never waits
        try:
            job(device, self._end - time.monotonic())
        finally:
            self._free.put(device)


def command(module: str, given: Sequence[str], file: Path, device: str, seconds: float) -> str:
    """Run `python -m training.MODULE` with its output added to `file`; "" or, in one line, why it failed."""
    if seconds <= 0:
        return TOO_LATE
    name, _, number = device.partition(":")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as output:
        try:
            done = subprocess.run(
                [sys.executable, "-m", f"training.{module}", *given, "--device", name],
                env=os.environ | ({"CUDA_VISIBLE_DEVICES": number} if number else {}),
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return TOO_LATE
    return "" if done.returncode == 0 else f"{file}: {file.read_text().splitlines()[-1:]}"


class Comparison:
    """Attempts in one folder.

    Args:
        given: the options of `training.runs.workspace`.
        attempts: tried.
        length: bases of a chunk.
    """

    def __init__(self, given: argparse.Namespace, attempts: Sequence[Attempt], length: int) -> None:
        self._given, self._attempts, self._length = given, attempts, length
        self._kept = given.kept or given.out
        self._failures: dict[str, str] = {}

    def work(self, attempt: Attempt) -> Workspace:
        """Where an attempt is made."""
        out = self._given.out / "attempts" / attempt.name
        changes = [*self._given.set, *attempt.changes]
        return workspace(
            argparse.Namespace(**vars(self._given) | {"out": out, "kept": self._kept, "set": changes}),
            TRIAL,
        )

    def run(self, runner: Runner) -> None:
        """Tables, then encoders, then heads; an attempt that fails leaves the others alone."""
        by_table = {work.key("draws"): work for work in map(self.work, self._attempts)}
        lengths = {LENGTH, self._length}
        for work in by_table.values():
            for length in lengths:
                work.training(length)
        # What is measured is the same for all.
        any_work = next(iter(by_table.values()))
        for length in lengths:
            any_work.held_out(DEV, length)
        any_work.held_out(DEV, self._length, pieces=True)
        any_work.held_out(VALIDATION, self._length)
        log(tables="done")
        sharing: dict[Path, list[Attempt]] = {}
        for attempt in self._attempts:
            sharing.setdefault(encoders_file(self.work(attempt)).path, []).append(attempt)
        # Long pre-training first, or all would wait for it in the end.
        groups = sorted(
            sharing.values(), key=lambda group: -self.work(group[0]).recipe.pretrain.optimiser.steps
        )
        head = ("--length", str(self._length), "--phase", TRIAL)
        runner.run(
            (
                partial(self._do, "pretrain", group[0], ()),
                [partial(self._do, "train_head", attempt, head) for attempt in group],
            )
            for group in groups
        )

    def _do(self, module: str, attempt: Attempt, more: Sequence[str], device: str, seconds: float) -> None:
        file = self.work(attempt).out / "log.jsonl"
        failure = command(module, [*self._options(attempt), *more], file, device, seconds)
        log(done=module, attempt=attempt.name, **({"failed": failure} if failure else {}))
        if failure:
            self._failures.setdefault(attempt.name, failure)  # the first is the cause of what follows

    def _options(self, attempt: Attempt) -> list[str]:
        work, given = self.work(attempt), self._given
        found = ["--data", work.data, "--out", work.out, "--kept", work.kept, "--recipe", given.recipe]
        found += ["--processes", work.processes]
        return [
            *map(str, found),
            *(word for one in (*given.set, *attempt.changes) for word in ("--set", one)),
        ]

    def rows(self) -> list[dict[str, Any]]:
        """What each attempt gave, the best first; failed ones last, with `failed`."""
        found = []
        for attempt in self._attempts:
            path = report_file(self.work(attempt), self._length)
            row: dict[str, Any] = {"name": attempt.name, "why": attempt.why, "set": list(attempt.changes)}
            if path.exists() and attempt.name not in self._failures:
                report = json.loads(path.read_text())
                row |= {
                    key: report[key]
                    for key in ("seconds", "temperature", "pieces", "validation")
                    if key in report
                }
                row |= report["model"]
            else:
                row["failed"] = self._failures.get(attempt.name, "not run")
            found.append(row)
        return sorted(found, key=lambda row: -(row.get("dev") or 0.0))


def markdown(rows: Iterable[dict[str, Any]], length: int) -> str:
    """The table of docs/nano.md: AUROC on the dev split for chunks of `length` bases, and for 5 kb pieces; the
    validation split's, by which nothing is chosen, beside them."""
    lines = [
        f"| attempt | changed settings | dev, {length} bp | prokaryotes | eukaryotes | 5 kb "
        "| validation | head, s | why |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        figures = [row.get(name) for name in ("dev", "prokaryotes", "eukaryotes", "pieces", "validation")]
        shown = ["-" if figure is None else f"{figure:.4f}" for figure in figures]
        seconds = f"{row['seconds']:.0f}" if "seconds" in row else row["failed"]
        changed = " ".join(f"`{change}`" for change in row["set"]) or "none"
        lines.append("| " + " | ".join([row["name"], changed, *shown, seconds, row["why"]]) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Command line; 1 if an attempt failed or there was no time for it."""
    parser = options(__doc__)
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    parser.add_argument("--attempts", type=Path, default=ATTEMPTS)
    parser.add_argument("--only", nargs="+", help="names of attempts, instead of all")
    parser.add_argument("--length", type=int, default=LENGTH, help="bases of a chunk")
    parser.add_argument(
        "--devices", nargs="+", default=gpus or ["cpu"], help="like cuda:0; twice for two at once"
    )
    parser.add_argument("--minutes", type=float, default=24 * 60.0, help="to end within")
    given = parser.parse_args(arguments)
    runner = Runner(given.devices, given.minutes * 60)
    try:
        attempts = read(given.attempts, given.recipe)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{given.attempts}: {error}") from error
    if unknown := set(given.only or ()) - {attempt.name for attempt in attempts}:
        raise SystemExit(f"{given.attempts} has no attempt {', '.join(sorted(unknown))}")
    chosen = [attempt for attempt in attempts if not given.only or attempt.name in given.only]
    comparison = Comparison(given, chosen, given.length)
    comparison.run(runner)
    rows = comparison.rows()
    (given.out / "attempts.json").write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n")
    (given.out / "attempts.md").write_text(markdown(rows, given.length))
    for row in rows:
        log(**{key: value for key, value in row.items() if key != "why"})
    return int(any("failed" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
