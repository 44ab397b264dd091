"""What is measured on the dev split, by which recipes are compared."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from training.data.corpus import DOMAINS, Corpus
from training.data.frame_table import Frames
from virnucpro_core.evaluation.metrics import auroc, mean_margins, temperature
from virnucpro_core.scoring.verdicts import verdict_margins

Margins = npt.NDArray[np.float32]


def dev_metrics(margins: Margins, dev: Frames, corpus: Corpus) -> dict[str, float | None]:
    """AUROC of the dev split's chunks, None where a label is missing.

    prokaryotes, eukaryotes: all viruses against the hosts of either domain; dev: the mean of the two, by which
    recipes are compared (which hosts there are more of in the split is chance); within_*: the viruses of a domain
    against its hosts; all: all against all.

    margins float32 [frames], of the table `dev`.
    """
    of_chunk = verdict_margins(margins, dev.frame_chunk)
    virus = corpus.labels[dev.chunk_record] == 1
    domain = corpus.domains[dev.chunk_record]
    against, within = {}, {}
    for name in DOMAINS:
        inside = domain == name
        chosen = virus | inside
        against[name] = auroc(of_chunk[chosen], virus[chosen])
        within[f"within_{name}"] = auroc(of_chunk[inside], virus[inside])
    both = [value for value in against.values() if not math.isnan(value)]
    found = {
        "dev": sum(both) / len(both) if both else math.nan,
        **against,
        **within,
        "all": auroc(of_chunk, virus),
    }
    return {name: None if math.isnan(value) else round(value, 4) for name, value in found.items()}


def dev_temperature(margins: Margins, dev: Frames, corpus: Corpus) -> float:
    """The temperature that makes probabilities of the margins behind the chunks' verdicts.

    Raises:
        ValueError: the split has chunks of one label only.
    """
    virus = corpus.labels[dev.chunk_record] == 1
    return temperature(verdict_margins(margins, dev.frame_chunk), virus)


def piece_auroc(margins: Margins, pieces: Frames, corpus: Corpus) -> float | None:
    """AUROC of pieces of 5 kb by the mean margin of their chunks, None where a label is missing."""
    of_chunk = verdict_margins(margins, pieces.frame_chunk)
    _, first, owner = np.unique(pieces.chunk_piece, return_index=True, return_inverse=True)
    virus = corpus.labels[pieces.chunk_record[first]] == 1
    found: Any = auroc(mean_margins(of_chunk, owner), virus)
    return None if math.isnan(found) else round(found, 4)
