"""The baseline: gradient-boosted trees on counts of 5-mers, which see neither proteins nor order.

It is trained and scored in the same run, on chunks drawn and cut as the model's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from training.data.corpus import BalancedSampler, Corpus
from virnucpro_core.sequence.frames import open_frames

try:
    from sklearn.ensemble import HistGradientBoostingClassifier
except ImportError:
    # At once, not after hours of training.
    raise SystemExit("the baseline needs scikit-learn: pip install 'virnucpro-stream[train]'") from None

K = 5
CHUNKS = 30_000
TREES = 400
NAME = "gradient-boosted trees (scikit-learn) on shares of 5-mers of both strands"
_CODE = np.full(256, 4, dtype=np.int64)
_CODE[np.frombuffer(b"ACGT", dtype=np.uint8)] = range(4)

Floats = npt.NDArray[np.float32]


def _classes() -> npt.NDArray[np.int64]:
    """The number of each 5-mer, the same as of its reverse complement: [4 ** K] -> 0 .. 511."""
    words = np.arange(4**K)
    digits = (words[:, None] // 4 ** np.arange(K)) % 4  # last letter first
    reverse = (3 - digits) @ 4 ** np.arange(K)[::-1]
    return np.unique(np.minimum(words, reverse), return_inverse=True)[1].astype(np.int64)


_CLASSES = _classes()
WORDS = int(_CLASSES.max()) + 1


def shares(letters: npt.NDArray[np.uint8]) -> Floats:
    """Shares of the 5-mers of both strands of one chunk (ASCII letters, upper case), float32 [512]; words with a
    letter that is not a base are left out."""
    codes = _CODE[letters]
    places = max(len(codes) - K + 1, 0)
    words = np.zeros(places, dtype=np.int64)
    clean = np.ones(places, dtype=bool)
    for i in range(K):
        part = codes[i : i + places]
        words = words * 4 + np.minimum(part, 3)
        clean &= part < 4
    found = np.bincount(_CLASSES[words[clean]], minlength=WORDS)
    return (found / max(int(clean.sum()), 1)).astype(np.float32)


def table(corpus: Corpus, records: Iterable[int], spans: Iterable[Sequence[int]]) -> Floats:
    """Shares of chunks, float32 [chunks, 512]; spans: where each begins and ends in its record."""
    found = [
        shares(corpus.codes[corpus.starts[record] + start : corpus.starts[record] + end])
        for record, (start, end) in zip(records, spans, strict=True)
    ]
    return np.stack(found) if found else np.zeros((0, WORDS), dtype=np.float32)


def drawn(
    corpus: Corpus, splits: Sequence[str], length: int, chunks: int, seed: int
) -> tuple[Floats, npt.NDArray[np.uint8]]:
    """Shares and labels of training chunks with an open frame, drawn with the model's balance.

    Raises:
        ValueError: no such chunk is found.
    """
    rng = np.random.default_rng([seed, length])
    sampler = BalancedSampler(corpus, corpus.records_of(*splits))
    records: list[int] = []
    spans: list[tuple[int, int]] = []
    record, failures = int(sampler.draw(rng, 1)[0]), 0
    while len(records) < chunks:
        bases = int(corpus.lengths[record])
        start = int(rng.integers(max(bases - length, 0) + 1))
        end = min(start + length, bases)
        if open_frames(corpus.sequence(record, start, end)):
            records.append(record)
            spans.append((start, end))
            record, failures = int(sampler.draw(rng, 1)[0]), 0
        else:
            failures += 1
            record = sampler.again(record, failures, rng)
    return table(corpus, records, spans), corpus.labels[records]


class Baseline:
    """The trees, trained on chunks of some splits.

    Args:
        splits: where the chunks are drawn.
        length: bases of a chunk.
        chunks: how many.
    """

    def __init__(
        self, corpus: Corpus, splits: Sequence[str], length: int, chunks: int = CHUNKS, seed: int = 1
    ) -> None:
        self._trees = HistGradientBoostingClassifier(
            max_iter=TREES, learning_rate=0.08, max_leaf_nodes=31, l2_regularization=1.0, random_state=seed
        )
        self._trees.fit(*drawn(corpus, splits, length, chunks, seed))

    def margins(self, features: Floats) -> npt.NDArray[np.float64]:
        """Log odds of a virus, float64 [chunks]; features as `table` gives them."""
        if len(features) == 0:
            return np.zeros(0)
        probability = np.clip(self._trees.predict_proba(features)[:, 1].astype(np.float64), 1e-6, 1 - 1e-6)
        found: npt.NDArray[np.float64] = np.log(probability / (1 - probability))
        return found
