"""Divergence measured live: a share of the batches goes through the other attention path too.

The answers of a batch are handed over first; the comparison comes after, on the same thread, since that one owns
the device. It costs two more forwards for each sampled batch, and a failure in it does not affect any record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from virnucpro_core.errors import CoreError, DeviceLost
from virnucpro_core.evaluation.divergence import Divergence, compare
from virnucpro_core.scoring.model import Evaluator
from virnucpro_core.sequence.prepare import PreparedFrame

log = structlog.get_logger(__name__)


class DivergenceSampler:
    """Compares every n-th batch, so that the share of compared batches is `share`.

    Args:
        ours, theirs: the engine on the path that serves, and on the other.
        share: of the batches, 0 to 1.
        observe: called with each comparison, or None for one that failed.
    """

    def __init__(
        self, ours: Evaluator, theirs: Evaluator, share: float, observe: Callable[[Divergence | None], None]
    ) -> None:
        self._ours, self._theirs, self._share, self._observe = ours, theirs, share, observe
        self._seen = 0

    def saw(self, frames: Sequence[PreparedFrame]) -> None:
        """A batch has been scored and handed over. Raises DeviceLost, and nothing else of the model's."""
        self._seen += 1
        if int(self._seen * self._share) == int((self._seen - 1) * self._share):
            return
        try:
            figures = compare(
                *self._ours.features_and_scores(frames), *self._theirs.features_and_scores(frames)
            )
        except DeviceLost:
            raise
        except (CoreError, RuntimeError, ValueError) as error:
            log.warning("divergence_not_measured", error=str(error))
            self._observe(None)
        else:
            self._observe(figures)
            if figures.label_agreement < 1:
                log.warning("attention_paths_disagree", **figures.as_dict())
