"""Counts answers: predictions by verdict, and dead letters."""

from __future__ import annotations

from collections import Counter

from schemas import Verdict


class AnswerTally:
    """What was shown so far; `str` is one line for people."""

    def __init__(self) -> None:
        self._verdicts: Counter[Verdict] = Counter()
        self._dead_letters = 0

    def prediction(self, verdict: Verdict) -> None:
        """One more prediction."""
        self._verdicts[verdict] += 1

    def dead_letter(self) -> None:
        """One more dead letter."""
        self._dead_letters += 1

    def __str__(self) -> str:
        parts = [f"{self._verdicts.total():,} predictions"] + [
            f"{count:,} {verdict.replace('_', ' ')}" for verdict, count in sorted(self._verdicts.items())
        ]
        if self._dead_letters:
            parts.append(f"{self._dead_letters:,} dead letters")
        return ", ".join(parts)
