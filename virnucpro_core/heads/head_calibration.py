"""The calibration of a new head, from the features of the records that were held out of its training."""

from __future__ import annotations

import numpy as np

from virnucpro_core.evaluation.calibration_fit import fit_calibration
from virnucpro_core.evaluation.labelled_chunks import LabelledChunks
from virnucpro_core.heads.feature_file import FeatureFile
from virnucpro_core.heads.splits import Part
from virnucpro_core.heads.training import head_margins
from virnucpro_core.models.classifier import Head
from virnucpro_core.scoring.calibration import Calibration
from virnucpro_core.scoring.verdicts import verdict_margins


def head_calibration(head: Head, temperature: float, file: FeatureFile, part: Part, seed: int) -> Calibration:
    """Fit the probability of records on the scores that a head gives the records of a part.

    Args:
        head: of temperature 1.
        temperature: what its margins are divided by.
        file: its features.
        part: the records.
        seed: of the folds.

    Raises:
        CalibrationError: there are too few records or groups of a label, or the head does not rank them.
    """
    margins = head_margins(head, file.features, part.rows) / temperature
    _, unit = np.unique(part.unit, return_inverse=True)
    chunks = LabelledChunks(
        margins=verdict_margins(margins, part.frame_chunk),
        owner=part.chunk_record,
        number=part.chunk_number,
        is_virus=part.is_virus,
        unit=unit,
        expected_length=file.info.expected_length,
    )
    return fit_calibration(chunks, seed)
