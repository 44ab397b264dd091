"""ESM-2 from a fair-esm `.pt` file or a Hugging Face folder, by fair-esm's names."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from virnucpro_core.bundle.manifest import Esm2Config
from virnucpro_core.importing.checkpoints import Checkpoint, load_pickled, read_checkpoint, require, shape_of
from virnucpro_core.importing.import_error import CheckpointError
from virnucpro_core.importing.parts import Part
from virnucpro_core.models.esm2_weights import build_esm2

_META = torch.device("meta")
_FAIR_ESM_PREFIX = re.compile(r"^encoder\.(sentence_encoder\.)?")
_HEADS = ("lm_head.", "contact_head.")
# The position embeddings belong to ESM-1b; ESM-2's published folders carry them along, unused.
_NOT_NEEDED = (*_HEADS, "pooler.", "embeddings.position_ids", "embeddings.position_embeddings.")
_HUGGING_FACE = {
    "model_type": "esm",
    "vocab_size": 33,
    "position_embedding_type": "rotary",
    "token_dropout": True,
    "emb_layer_norm_before": False,
    "layer_norm_eps": 1e-5,
    "is_folding_model": False,
}
_FAIR_ESM_SIZES = {
    "layers": "encoder_layers",
    "dim": "encoder_embed_dim",
    "heads": "encoder_attention_heads",
}
_HUGGING_FACE_SIZES = {
    "layers": "num_hidden_layers",
    "dim": "hidden_size",
    "heads": "num_attention_heads",
}
_RENAMED = {
    "embeddings.word_embeddings": "embed_tokens",
    "encoder.emb_layer_norm_after": "emb_layer_norm_after",
}
_RENAMED_IN_LAYERS = {
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.self.rotary_embeddings": "self_attn.rot_emb",
    "attention.output.dense": "self_attn.out_proj",
    "attention.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "LayerNorm": "final_layer_norm",
}
_LAYER = re.compile(r"^encoder\.layer\.(\d+)\.(.+)$")


def read_esm2(path: Path) -> Part[Esm2Config]:
    """Read ESM-2: a fair-esm `.pt` file, or a Hugging Face folder. The heads are left out.

    Raises:
        BundleError: it is not ESM-2, a weight is missing, unknown or of a wrong shape, or the file is refused.
        OSError: a file cannot be read.
    """
    part = _hugging_face(path) if path.is_dir() else _fair_esm(path)
    build_esm2(part.config, part.tensors, _META, torch.float32)
    return part


def _fair_esm(path: Path) -> Part[Esm2Config]:
    content = load_pickled(path)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise CheckpointError(f"{path} is not a fair-esm checkpoint: it has no 'model'")
    options = _options(content, path)
    require(options, {"token_dropout": True}, str(path))
    checkpoint = Checkpoint(
        {_FAIR_ESM_PREFIX.sub("", str(name)): tensor for name, tensor in content["model"].items()}, [path], {}
    )
    config = shape_of(Esm2Config, options, _FAIR_ESM_SIZES, str(path))
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith(_HEADS)}
    return Part(config, _exact(tensors), "fair-esm .pt", [path])


def _options(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The model's options: under cfg.model, or, as older checkpoints have it, under args."""
    place = _entries(content.get("cfg")).get("model", content.get("args"))
    options = _entries(place)
    if not options:
        raise CheckpointError(f"{path} does not say its architecture: it has neither 'cfg' nor 'args'")
    return options


def _entries(value: Any) -> dict[str, Any]:
    if isinstance(value, argparse.Namespace):
        return vars(value)
    return value if isinstance(value, dict) else {}


def _hugging_face(path: Path) -> Part[Esm2Config]:
    checkpoint = read_checkpoint(path)
    where = str(path / "config.json")
    if not checkpoint.config:
        raise CheckpointError(f"{where} is missing: fetch it, it says how many attention heads there are")
    require(checkpoint.config, _HUGGING_FACE, where)
    config = shape_of(Esm2Config, checkpoint.config, _HUGGING_FACE_SIZES, where)
    tensors = {}
    for name, tensor in checkpoint.tensors.items():
        bare = name.removeprefix("esm.")
        if not bare.startswith(_NOT_NEEDED):
            tensors[_fair_esm_name(bare)] = tensor
    return Part(config, _exact(tensors), "Hugging Face folder", checkpoint.files)


def _fair_esm_name(name: str) -> str:
    """A name that is not known stays as it is, and is refused when the weights are compared with the model."""
    module, _, kind = name.rpartition(".")
    if in_layer := _LAYER.match(module):
        number, inner = in_layer.groups()
        if inner in _RENAMED_IN_LAYERS:
            return f"layers.{number}.{_RENAMED_IN_LAYERS[inner]}.{kind}"
    return f"{_RENAMED[module]}.{kind}" if module in _RENAMED else name


def _exact(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A bundle has the rotary frequencies in fp32. They were rounded in training; their values are kept."""
    return {name: tensor.float() if name.endswith("inv_freq") else tensor for name, tensor in tensors.items()}
