"""DNABERT-S from its published folder or file, by its own names."""

from __future__ import annotations

from pathlib import Path

import torch

from virnucpro_core.bundle.manifest import DnabertSConfig
from virnucpro_core.bundle.weights import fill
from virnucpro_core.importing.checkpoints import read_checkpoint, require, shape_of
from virnucpro_core.importing.parts import Part
from virnucpro_core.models.dnabert_s import DnabertS

PUBLISHED = DnabertSConfig(layers=12, dim=768, heads=12, intermediate=3072, vocab=4096)
_PREFIX = "bert."
_NOT_NEEDED = ("pooler.", "cls.")
_FIXED = {"type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu"}
_SIZES = {
    "layers": "num_hidden_layers",
    "dim": "hidden_size",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "vocab": "vocab_size",
}


def read_dnabert_s(path: Path) -> Part[DnabertSConfig]:
    """Read DNABERT-S: a folder, or a safetensors or `pytorch_model.bin` file. The pooler and the language-model
    head are left out. Without a config.json beside the weights they must be of the published shape.

    Raises:
        BundleError: a weight is missing, unknown or of a wrong shape, or the file is refused.
        OSError: a file cannot be read.
    """
    checkpoint = read_checkpoint(path)
    config = PUBLISHED
    if checkpoint.config:
        where = str(checkpoint.files[0].with_name("config.json"))
        require(checkpoint.config, _FIXED, where)
        config = shape_of(DnabertSConfig, checkpoint.config, _SIZES, where)
    tensors = {}
    for name, tensor in checkpoint.tensors.items():
        bare = name.removeprefix(_PREFIX)
        if not bare.startswith(_NOT_NEEDED):
            tensors[bare] = tensor
    meta = torch.device("meta")
    with meta:
        model = DnabertS(config)
    fill("dnabert_s", model, tensors, meta, torch.float32)
    layout = "safetensors" if checkpoint.files[0].suffix == ".safetensors" else "pytorch_model.bin"
    return Part(config, tensors, layout, checkpoint.files)
