"""Which records are written, by their probability to be viral."""

from __future__ import annotations

import pickle
import tempfile
from array import array
from collections.abc import Iterator
from typing import IO

from virnucpro_core.scoring.calibration import Probability
from virnucpro_core.scoring.outcomes import LeftOut, Outcome, ScoredRecord


class Selection:
    """Takes outcomes in order and gives those that are wanted, in the same order.

    With `max_fdr` none is known to be wanted before all are there. They wait in a temporary file without a name, which
    needs about as much disk as the input; 8 bytes of each stay in memory.

    Args:
        probability: of a record.
        least: a record below this probability is not wanted.
        max_fdr: the most probable records are wanted, as many as have a mean of 1 - probability (the share of them that
            is expected not to be viral) of at most this; records of one probability all or none. None: no such limit.

    Attributes:
        count: records that were wanted.
        expected_fdr: the mean of their 1 - probability; None while there are none.
        threshold: the least of their probabilities; None while there are none.
    """

    def __init__(self, probability: Probability, least: float = 0.0, max_fdr: float | None = None) -> None:
        self._probability, self._least, self._max_fdr = probability, least, max_fdr
        self._waiting: IO[bytes] | None = None
        self._probabilities = array("d")
        self.count = 0
        self._false = 0.0
        self.threshold: float | None = None

    @property
    def expected_fdr(self) -> float | None:
        return self._false / self.count if self.count else None

    def add(self, outcome: Outcome) -> Iterator[Outcome]:
        """One more outcome; gives those that are now known to be wanted.

        Raises:
            OSError: the temporary file cannot be written.
        """
        if isinstance(outcome, LeftOut):
            return
        probability = self._probability(outcome.result)
        if probability is None or probability < self._least:
            return
        if self._max_fdr is None:
            self._take(probability)
            yield outcome
            return
        if self._waiting is None:
            self._waiting = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `rest`, or with the process)
        pickle.dump((outcome.record, outcome.result), self._waiting, pickle.HIGHEST_PROTOCOL)
        self._probabilities.append(probability)

    def rest(self) -> Iterator[Outcome]:
        """All outcomes were added: gives the wanted ones of those that wait. Called once.

        Raises:
            OSError: the temporary file cannot be read.
        """
        if self._waiting is None or self._max_fdr is None:
            return
        threshold = fdr_threshold(self._probabilities, self._max_fdr)
        with self._waiting as waiting:
            waiting.seek(0)
            for probability in self._probabilities:
                record, result = pickle.load(waiting)  # this process wrote it
                if threshold is not None and probability >= threshold:
                    self._take(probability)
                    yield ScoredRecord(record, result)

    def _take(self, probability: float) -> None:
        self.count += 1
        self._false += 1 - probability
        self.threshold = probability if self.threshold is None else min(self.threshold, probability)


def fdr_threshold(probabilities: array[float], max_fdr: float) -> float | None:
    """The least probability at which the mean of 1 - probability over all from it up is at most `max_fdr`.

    None where it is more even for the highest probability.
    """
    import numpy as np

    found, counts = np.unique(np.asarray(probabilities, dtype=np.float64), return_counts=True)
    found, counts = found[::-1], counts[::-1]
    expected = np.cumsum((1 - found) * counts) / np.cumsum(counts)
    within = np.flatnonzero(expected <= max_fdr)
    return float(found[within[-1]]) if len(within) else None
