"""Small checkpoints in the layouts in which the models are published, written without any code of the project."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import esm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.support.models_fixture import random_dnabert_s, random_esm2
from tests.support.small_tokenizer import write_tokenizer
from virnucpro_core.bundle.manifest import DnabertSConfig, Esm2Config
from virnucpro_core.models.dnabert_s import DnabertS

ESM2 = Esm2Config(2, 32, 2)
DNA = DnabertSConfig(layers=2, dim=64, heads=4, intermediate=96, vocab=15)
HIDDEN = 24


class MLPClassifier(nn.Module):
    """The class of the published heads: the attributes and their order are what its pickles hold."""

    def __init__(self, input_dim: int, hidden_dim: int, num_class: int) -> None:
        super().__init__()
        self.hidden_layer = nn.Linear(input_dim, hidden_dim)
        self.bn1 = nn.BatchNorm1d(hidden_dim)
        self.output_layer = nn.Linear(hidden_dim, num_class)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(F.relu(self.bn1(self.hidden_layer(x))))
        return cast(Tensor, self.output_layer(hidden))


def trained_classifier(
    features: int = DNA.dim + ESM2.dim, hidden: int = HIDDEN, seed: int = 0
) -> MLPClassifier:
    """A few steps of training, so that the norm's statistics are not the initial ones."""
    torch.manual_seed(seed)
    model = MLPClassifier(features, hidden, 2)
    for _ in range(3):
        model(torch.randn(16, features) * 3 + 1)
    return model.eval()


def trained_esm2(config: Esm2Config = ESM2) -> esm.ESM2:
    """fair-esm's model, with the rotary frequencies rounded to 16 bits as the published weights have them."""
    model = random_esm2(config)
    for layer in model.layers:
        layer.self_attn.rot_emb.inv_freq = layer.self_attn.rot_emb.inv_freq.half().float()
    return model


@contextmanager
def pickled_from_script(name: str = "MLPClassifier", kind: type = MLPClassifier) -> Iterator[None]:
    """Within this context the class is pickled as that of a script, `__main__.MLPClassifier`."""
    main, before = sys.modules["__main__"], kind.__module__
    kind.__module__ = "__main__"
    setattr(main, name, kind)
    try:
        yield
    finally:
        kind.__module__ = before
        delattr(main, name)


def save_classifier(model: nn.Module, path: Path, legacy: bool = False) -> Path:
    """`torch.save(model)`, in the format of now or that before torch 1.6."""
    with pickled_from_script():
        torch.save(model, path, _use_new_zipfile_serialization=not legacy)
    return path


def fair_esm(
    model: esm.ESM2, path: Path, layout: str = "cfg", prefix: str = "encoder.sentence_encoder."
) -> Path:
    """A fair-esm `.pt` file in fp32. `layout`: where the options are (cfg, cfg of dictionaries, args)."""
    options = {
        "encoder_layers": model.num_layers,
        "encoder_embed_dim": model.embed_dim,
        "encoder_attention_heads": model.attention_heads,
        "token_dropout": True,
        "arch": "esm2",
    }
    # fair-esm's file has the contact head apart, and the language-model head below `encoder.`
    weights = {
        ("encoder." if name.startswith("lm_head.") else prefix) + name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("contact_head.")
    }
    content: dict[str, Any] = {"model": weights}
    if layout == "cfg":
        content["cfg"] = {"model": argparse.Namespace(**options)}
    elif layout == "cfg of dictionaries":
        content["cfg"] = {"model": options}
    else:
        content["args"] = argparse.Namespace(**options)
    torch.save(content, path)
    return path


def hugging_face_esm2(model: esm.ESM2, folder: Path, form: str = "safetensors") -> Path:
    """A folder as `EsmForMaskedLM.save_pretrained` writes it: whole, in shards, or as .bin."""
    folder.mkdir()
    config = {
        "architectures": ["EsmForMaskedLM"],
        "model_type": "esm",
        "vocab_size": 33,
        "hidden_size": model.embed_dim,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.attention_heads,
        "intermediate_size": 4 * model.embed_dim,
        "layer_norm_eps": 1e-05,
        "position_embedding_type": "rotary",
        "token_dropout": True,
        "emb_layer_norm_before": False,
        "is_folding_model": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    weights: dict[str, Tensor] = {
        "esm.embeddings.word_embeddings.weight": model.embed_tokens.weight,
        "esm.embeddings.position_embeddings.weight": torch.zeros(1026, model.embed_dim),
        "esm.embeddings.position_ids": torch.arange(1026)[None],
        "esm.contact_head.regression.weight": model.contact_head.regression.weight,
        "esm.contact_head.regression.bias": model.contact_head.regression.bias,
        "esm.encoder.emb_layer_norm_after.weight": model.emb_layer_norm_after.weight,
        "esm.encoder.emb_layer_norm_after.bias": model.emb_layer_norm_after.bias,
        "lm_head.dense.weight": model.lm_head.dense.weight,
        "lm_head.dense.bias": model.lm_head.dense.bias,
        "lm_head.layer_norm.weight": model.lm_head.layer_norm.weight,
        "lm_head.layer_norm.bias": model.lm_head.layer_norm.bias,
        "lm_head.decoder.weight": model.lm_head.weight.clone(),
        "lm_head.bias": model.lm_head.bias,
    }
    for number, layer in enumerate(model.layers):
        attention = layer.self_attn
        modules = {
            "attention.self.query": attention.q_proj,
            "attention.self.key": attention.k_proj,
            "attention.self.value": attention.v_proj,
            "attention.output.dense": attention.out_proj,
            "attention.LayerNorm": layer.self_attn_layer_norm,
            "intermediate.dense": layer.fc1,
            "output.dense": layer.fc2,
            "LayerNorm": layer.final_layer_norm,
        }
        prefix = f"esm.encoder.layer.{number}."
        for name, module in modules.items():
            weights |= {f"{prefix}{name}.weight": module.weight, f"{prefix}{name}.bias": module.bias}
        weights[f"{prefix}attention.self.rotary_embeddings.inv_freq"] = attention.rot_emb.inv_freq
    save_weights({name: tensor.detach().contiguous() for name, tensor in weights.items()}, folder, form)
    return folder


def save_weights(weights: Mapping[str, Tensor], folder: Path, form: str) -> None:
    """Weights as a Hugging Face folder has them: safetensors, sharded safetensors, bin, or legacy bin."""
    if form == "safetensors":
        save_file(dict(weights), folder / "model.safetensors")
    elif form == "shards":
        names = sorted(weights)
        shards = {
            "model-00001-of-00002.safetensors": names[::2],
            "model-00002-of-00002.safetensors": names[1::2],
        }
        for shard, held in shards.items():
            save_file({name: weights[name] for name in held}, folder / shard)
        placed = {name: shard for shard, held in shards.items() for name in held}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    else:
        new = form == "bin"
        torch.save(dict(weights), folder / "pytorch_model.bin", _use_new_zipfile_serialization=new)


def dnabert_s(model: DnabertS, folder: Path, form: str = "bin", prefix: str = "bert.") -> Path:
    """A folder as DNABERT-S is published, with its pooler and language-model head, and the tests' tokenizer."""
    folder.mkdir()
    config = {
        "num_hidden_layers": model.config.layers,
        "hidden_size": model.config.dim,
        "num_attention_heads": model.config.heads,
        "intermediate_size": model.config.intermediate,
        "vocab_size": model.config.vocab,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
    }
    (folder / "config.json").write_text(json.dumps(config))
    weights = {prefix + name: tensor.detach() for name, tensor in model.state_dict().items()}
    weights |= {
        f"{prefix}pooler.dense.weight": torch.zeros(model.config.dim, model.config.dim),
        "cls.predictions.bias": torch.zeros(model.config.vocab),
    }
    save_weights(weights, folder, form)
    write_tokenizer(folder / "tokenizer.json")
    return folder


class Published:
    """One set of models, and their checkpoints in a folder."""

    def __init__(self, folder: Path) -> None:
        self.esm2, self.dna, self.head = trained_esm2(), random_dnabert_s(DNA), trained_classifier()
        self.esm2_path = fair_esm(self.esm2, folder / "esm2_t2_tiny.pt")
        self.dna_path = dnabert_s(self.dna, folder / "DNABERT-S")
        self.head_path = save_classifier(self.head, folder / "500_model.pth")

    def arguments(self, output: Path, **changes: object) -> list[str]:
        """The command line that imports them; `changes` by option, None leaves one out."""
        options: dict[str, object] = {
            "--esm2": self.esm2_path,
            "--dnabert-s": self.dna_path,
            "--head": self.head_path,
            "--expected-length": 500,
            "--id": "tiny-500",
            "--output": output,
        }
        options |= {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
        given = [[name, str(value)] for name, value in options.items() if value is not None]
        return ["models", "import", *(word for pair in given for word in pair)]
