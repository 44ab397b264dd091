"""A trained network -> a model bundle whose manifest says what it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.data.corpus import EXTRA, SPLITS, Corpus, ids_digest
from training.model.network import Network
from training.runs.train_head import key_of
from training.runs.workspace import Workspace
from virnucpro_core.bundle.bundle import Bundle, read_manifest, write_bundle
from virnucpro_core.bundle.manifest import Manifest
from virnucpro_core.bundle.weights import weights_of
from virnucpro_core.evaluation.labels import LABELS
from virnucpro_core.models.esm2_weights import esm2_weights

DESCRIPTION = (
    "A small model of VirNucPro's architecture, trained from scratch on a few thousand public genomes so "
    "that everything runs on a laptop. It is no substitute for the published models: see the validation figures."
)
LICENCE = "MIT"


def data_list(corpus: Corpus, *, with_extra: bool) -> dict[str, Any]:
    """The records of each split: how many, how long, and which (ids, separated by spaces).

    with_extra: whether the extra sources were trained on; else they are not listed.
    """
    listing: dict[str, Any] = {
        "source": (
            "public sequences, nearly all of INSDC, RefSeq and Ensembl; "
            "ids are accessions where the source gives them"
        ),
        "ids_sha256": "of the split's ids, sorted, one a line",
    }
    for split in (*SPLITS, EXTRA) if with_extra else SPLITS:
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


def facts(work: Workspace, length: int, command: str, judged: dict[str, Any]) -> dict[str, Any]:
    """What a manifest says about the training.

    command: the module that made the bundle; judged: how its recipe was, by name.
    """
    cuda = work.device.type == "cuda"
    return {
        "command": f"python -m {command} --data DATA --out OUT",
        "key": key_of(work, length),
        "finished": datetime.now(UTC).strftime("%Y-%m-%d"),
        "hardware": torch.cuda.get_device_name(work.device) if cuda else "CPU",
        "recipe": asdict(work.recipe),
        "trained_on": list(work.splits),
        **judged,
        "data": data_list(work.corpus, with_extra=EXTRA in work.splits),
    }


def draft_manifest(
    network: Network, name: str, expected_length: int, temperature: float, training: Mapping[str, Any]
) -> Manifest:
    """The manifest of a bundle that is to be written, without files and validation."""
    esm2, dnabert_s, head = network.configs
    return Manifest(
        id=name,
        description=DESCRIPTION,
        expected_length=expected_length,
        esm2=esm2,
        dnabert_s=dnabert_s,
        head=head,
        licence=LICENCE,
        temperature=temperature,
        training=dict(training),
    )


def export(network: Network, path: Path, draft: Manifest, tokenizer: Path) -> Bundle:
    """Write a bundle to `path`, which must not exist; draft: see `draft_manifest`.

    The encoders are stored in fp16. The head stays fp32, in which it is always computed: it is small, and
    BatchNorm's variances do not fit fp16's range.
    """
    tensors = {
        "esm2": esm2_weights(network.encoders.esm2, torch.float16),
        "dnabert_s": weights_of(network.encoders.dnabert_s, torch.float16),
        "head": weights_of(network.head, torch.float32),
    }
    return write_bundle(path, draft, tensors, tokenizer)


def is_there(work: Workspace, target: Path, length: int) -> bool:
    """Whether a bundle has been written.

    Raises:
        SystemExit: one of that name is there, of other data or another recipe.
    """
    if not target.exists():
        return False
    if read_manifest(target)[0].training.get("key") != key_of(work, length):
        raise SystemExit(f"{target} is of other data or another recipe: remove it, or choose another --out")
    return True
