"""Runs commands of the training side by side, one a device, each in a process of its own."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from multiprocessing import connection
from pathlib import Path

import torch

TOO_LATE = "out of time: give the command again"
# Processes are forked from one that never uses a GPU and has loaded torch, with what an optimiser loads of it: that
# takes longer than a small job.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["training.runs.train_head", "torch._dynamo"])
_STARTING = threading.Lock()
"""Held while a process is started or waited for: starting one looks for others that have ended."""

Job = Callable[[str, float], None]


class Runner:
    """Runs jobs, one on each device at a time, all within one deadline (seconds from now).

    A device is "cpu" or "cuda:N".
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
    """Run the command training.MODULE with its output added to `file`; "" or, in one line, why it failed.

    A command on "cuda:N" sees that GPU alone; one on "cpu" has one thread, since others run beside it.
    """
    if seconds <= 0:
        return TOO_LATE
    file.parent.mkdir(parents=True, exist_ok=True)
    process = _FORKS.Process(target=_main, args=(module, list(given), file, device))
    with _STARTING:
        process.start()
    in_time = connection.wait([process.sentinel], seconds)
    with _STARTING:
        if not in_time:
            process.kill()
        process.join()
    if not in_time:
        return TOO_LATE
    return "" if process.exitcode == 0 else f"{file}: {file.read_text().splitlines()[-1:]}"


def _main(module: str, given: list[str], file: Path, device: str) -> None:
    with file.open("ab") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    name, _, number = device.partition(":")
    if number:
        os.environ["CUDA_VISIBLE_DEVICES"] = number  # before anything asks for a GPU
    elif name == "cpu":
        torch.set_num_threads(1)
    sys.exit(importlib.import_module(f"training.{module}").main([*given, "--device", name]))
