"""A trained network -> a model bundle whose manifest says what it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.data.corpus import SPLITS, Corpus, ids_digest
from training.model.network import Network
from virnucpro_core.bundle.bundle import Bundle, write_bundle
from virnucpro_core.bundle.weights import weights_of
from virnucpro_core.evaluation.labels import LABELS
from virnucpro_core.models.esm2_weights import esm2_weights

DESCRIPTION = (
    "A small model of VirNucPro's architecture, trained from scratch on a few thousand public genomes so "
    "that everything runs on a laptop. It is no substitute for the published models: see the validation figures."
)
LICENCE = "MIT"


def data_list(corpus: Corpus) -> dict[str, Any]:
    """The records of each split: how many, how long, and which (ids, separated by spaces)."""
    listing: dict[str, Any] = {
        "source": (
            "public sequences, nearly all of INSDC, RefSeq and Ensembl; "
            "ids are accessions where the source gives them"
        ),
        "ids_sha256": "of the split's ids, sorted, one a line",
    }
    for split in SPLITS:
        records = corpus.records_of(split)
        ids = [str(record_id) for record_id in corpus.ids[records]]
        counts = {
            name: {
                "records": int((corpus.labels[records] == label).sum()),
                "bases": int(corpus.lengths[records[corpus.labels[records] == label]].sum()),
            }
            for label, name in enumerate(LABELS)
        }
        listing[split] = {**counts, "ids_sha256": ids_digest(ids), "ids": " ".join(np.sort(ids))}
    return listing


def export(
    network: Network,
    path: Path,
    *,
    name: str,
    tokenizer: Path,
    expected_length: int,
    temperature: float,
    training: Mapping[str, Any],
    validation: Mapping[str, Any],
) -> Bundle:
    """Write the bundle `name` to `path`, which must not exist.

    The encoders are stored in fp16. The head stays fp32, in which it is always computed: it is small, and
    BatchNorm's variances are no numbers for fp16.
    """
    esm2, dnabert_s, head = network.configs
    return write_bundle(
        path,
        id=name,
        description=DESCRIPTION,
        expected_length=expected_length,
        esm2=esm2,
        dnabert_s=dnabert_s,
        head=head,
        licence=LICENCE,
        tensors={
            "esm2": esm2_weights(network.encoders.esm2, torch.float16),
            "dnabert_s": weights_of(network.encoders.dnabert_s, torch.float16),
            "head": weights_of(network.head, torch.float32),
        },
        tokenizer=tokenizer,
        temperature=temperature,
        training=training,
        validation=validation,
    )
