"""Records made by hand with their labels, and the evaluation report on them."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np

from virnucpro_core.evaluation.evaluator import Evaluation
from virnucpro_core.evaluation.labels import Label
from virnucpro_core.scoring.results import ChunkResult, FrameResult, RecordResult, verdict_over

Case = tuple[RecordResult, Label]


def frame(virus: float, others: float | None = None) -> FrameResult:
    """Scores as float32 has them."""
    rest = np.float32(1) - np.float32(virus) if others is None else np.float32(others)
    return FrameResult("F1", float(rest), float(np.float32(virus)))


def record(name: str, length: int, *chunks: list[float]) -> RecordResult:
    """A record by the virus scores of the frames of its chunks."""
    made = tuple(
        ChunkResult(f"{name}_chunk_{n}", n, n + 1, verdict_over(frames), tuple(frames))
        for n, frames in enumerate([frame(virus) for virus in chunk] for chunk in chunks)
    )
    frames = [one for chunk in made for one in chunk.frames]
    return RecordResult(
        name,
        length,
        verdict_over(frames),
        max((one.virus for one in frames), default=None),
        max((one.others for one in frames), default=None),
        made,
    )


def report_on(*cases: Case) -> dict[str, Any]:
    """The report; a warning of numpy's would be one on a person's terminal, and fails."""
    evaluation = Evaluation()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for result, label in cases:
            evaluation.add(result, label)
        found = evaluation.report()
    return strictly_read(found)


def strictly_read(found: dict[str, Any]) -> dict[str, Any]:
    """Through JSON and back, where NaN and Infinity are not valid."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} in the report")

    read: dict[str, Any] = json.loads(json.dumps(found), parse_constant=refuse)
    return read


def random_cases(count: int, seed: int = 3) -> list[Case]:
    rng = np.random.default_rng(seed)
    cases = []
    for number in range(count):
        virus = bool(rng.random() < 0.4)
        scores = [
            list(rng.beta(3, 2, rng.integers(0, 4)) if virus else rng.beta(2, 3, rng.integers(0, 4)))
            for _ in range(rng.integers(1, 6))
        ]
        length = int(rng.choice([80, 499, 500, 999, 1000, 30_000]))
        cases.append((record(f"r{number}", length, *scores), Label(virus, f"family {number % 3}")))
    return cases
