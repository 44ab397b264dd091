"""Hyper-parameter sweep: trains several recipes side by side on all GPUs, and tabulates their metrics on the dev split.

    python -m training.runs.sweep --data DATA --out OUT --sweep training/sweep.toml

A trial is the trial phase (training.runs.train_head) of recipe.toml with some settings changed. Trials with the same
tables or encoders share them. Writes OUT/sweep.json and OUT/sweep.md; what each trial prints is in
OUT/sweep/NAME/log.jsonl. What is done is not repeated: with --minutes the command ends in time, and the same command
resumes it.
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

SWEEP = DEFAULT.with_name("sweep.toml")
TOO_LATE = "out of time: give the command again"


@dataclass(frozen=True, slots=True)
class Trial:
    """One recipe of a sweep: its name, why it is there, and the settings that it changes, as for --set."""

    name: str
    why: str
    changes: tuple[str, ...]


def read(path: Path, recipe: Path = DEFAULT) -> list[Trial]:
    """The trials of a file: a section each, with `why` and `set`, a list of settings.

    Raises:
        ValueError: a section lacks one of the two or has more, or a setting is not one of the recipe.
        OSError: a file cannot be read.
    """
    found = []
    for name, content in tomllib.loads(path.read_text(encoding="utf-8")).items():
        if not isinstance(content, dict) or set(content) != {"why", "set"}:
            raise ValueError(f"{name}: a trial has `why` and `set`, and nothing else")
        Recipe.load(recipe, content["set"])
        found.append(Trial(name, str(content["why"]), tuple(content["set"])))
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


class Sweep:
    """Trials in one folder.

    Args:
        given: the options of `training.runs.workspace`.
        trials: what to train.
        length: bases of a chunk.
    """

    def __init__(self, given: argparse.Namespace, trials: Sequence[Trial], length: int) -> None:
        self._given, self._trials, self._length = given, trials, length
        self._cache = given.cache or given.out
        self._failures: dict[str, str] = {}

    def work(self, trial: Trial) -> Workspace:
        """The workspace of a trial."""
        out = self._given.out / "sweep" / trial.name
        changes = [*self._given.set, *trial.changes]
        return workspace(
            argparse.Namespace(**vars(self._given) | {"out": out, "cache": self._cache, "set": changes}),
            TRIAL,
        )

    def run(self, runner: Runner) -> None:
        """Tables, then encoders, then heads; a trial that fails does not stop the others."""
        by_table = {work.key("data"): work for work in map(self.work, self._trials)}
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
        sharing: dict[Path, list[Trial]] = {}
        for trial in self._trials:
            sharing.setdefault(encoders_file(self.work(trial)).path, []).append(trial)
        # Long pre-training first, or all would wait for it in the end.
        groups = sorted(
            sharing.values(), key=lambda group: -self.work(group[0]).recipe.pretrain.optimiser.steps
        )
        head = ("--length", str(self._length), "--phase", TRIAL)
        runner.run(
            (
                partial(self._do, "runs.pretrain", group[0], ()),
                [partial(self._do, "runs.train_head", trial, head) for trial in group],
            )
            for group in groups
        )

    def _do(self, module: str, trial: Trial, more: Sequence[str], device: str, seconds: float) -> None:
        file = self.work(trial).out / "log.jsonl"
        failure = command(module, [*self._options(trial), *more], file, device, seconds)
        log(done=module, trial=trial.name, **({"failed": failure} if failure else {}))
        if failure:
            self._failures.setdefault(trial.name, failure)  # the first is the cause of what follows

    def _options(self, trial: Trial) -> list[str]:
        work, given = self.work(trial), self._given
        found = ["--data", work.data, "--out", work.out, "--cache", work.cache, "--recipe", given.recipe]
        found += ["--processes", work.processes]
        return [
            *map(str, found),
            *(word for one in (*given.set, *trial.changes) for word in ("--set", one)),
        ]

    def rows(self) -> list[dict[str, Any]]:
        """What each trial gave, the best first; failed ones last, with `failed`."""
        found = []
        for trial in self._trials:
            path = report_file(self.work(trial), self._length)
            row: dict[str, Any] = {"name": trial.name, "why": trial.why, "set": list(trial.changes)}
            if path.exists() and trial.name not in self._failures:
                report = json.loads(path.read_text())
                row |= {
                    key: report[key]
                    for key in ("seconds", "temperature", "pieces", "validation")
                    if key in report
                }
                row |= report["model"]
            else:
                row["failed"] = self._failures.get(trial.name, "not run")
            found.append(row)
        return sorted(found, key=lambda row: -(row.get("dev") or 0.0))


def markdown(rows: Iterable[dict[str, Any]], length: int) -> str:
    """The table of docs/nano.md: AUROC on the dev split for chunks of `length` bases, and for 5 kb pieces; the
    validation split's, by which nothing is chosen, beside them."""
    lines = [
        f"| trial | changed settings | dev, {length} bp | prokaryotes | eukaryotes | 5 kb "
        "| validation | head, s | why |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        metrics = [row.get(name) for name in ("dev", "prokaryotes", "eukaryotes", "pieces", "validation")]
        shown = ["-" if value is None else f"{value:.4f}" for value in metrics]
        seconds = f"{row['seconds']:.0f}" if "seconds" in row else row["failed"]
        changed = " ".join(f"`{change}`" for change in row["set"]) or "none"
        lines.append("| " + " | ".join([row["name"], changed, *shown, seconds, row["why"]]) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Command line; 1 if a trial failed or there was no time for it."""
    parser = options(__doc__)
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    parser.add_argument("--sweep", type=Path, default=SWEEP, help="file of the trials")
    parser.add_argument("--only", nargs="+", help="names of trials, instead of all")
    parser.add_argument("--length", type=int, default=LENGTH, help="bases of a chunk")
    parser.add_argument(
        "--devices", nargs="+", default=gpus or ["cpu"], help="like cuda:0; twice for two at once"
    )
    parser.add_argument("--minutes", type=float, default=24 * 60.0, help="to end within")
    given = parser.parse_args(arguments)
    runner = Runner(given.devices, given.minutes * 60)
    try:
        trials = read(given.sweep, given.recipe)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{given.sweep}: {error}") from error
    if unknown := set(given.only or ()) - {trial.name for trial in trials}:
        raise SystemExit(f"{given.sweep} has no trial {', '.join(sorted(unknown))}")
    chosen = [trial for trial in trials if not given.only or trial.name in given.only]
    sweep = Sweep(given, chosen, given.length)
    sweep.run(runner)
    rows = sweep.rows()
    (given.out / "sweep.json").write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n")
    (given.out / "sweep.md").write_text(markdown(rows, given.length))
    for row in rows:
        log(**{key: value for key, value in row.items() if key != "why"})
    return int(any("failed" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
