"""VirNucPro's classifier from the published pickled module, or from a state dict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from virnucpro_core.bundle.manifest import BundleError, HeadConfig
from virnucpro_core.bundle.weights import fill
from virnucpro_core.importing.checkpoints import SAFETENSORS, read_safetensors
from virnucpro_core.importing.import_error import CheckpointError
from virnucpro_core.importing.parts import Part
from virnucpro_core.importing.restricted_unpickler import CLASSIFIER, Record, TensorRef, read_pickled
from virnucpro_core.models.classifier import Head
from virnucpro_core.wording import shown

_RENAMED = {"hidden_layer": "hidden", "bn1": "norm", "output_layer": "output"}
_EXPECTED = {"hidden_layer": "Linear", "bn1": "BatchNorm1d", "output_layer": "Linear"}
_WITHOUT_WEIGHTS = ("Dropout", "ReLU")
_NORM_EPS = 1e-5
_FIRST = "hidden.weight"


def read_head(path: Path) -> Part[HeadConfig]:
    """Read a classifier: `500_model.pth` or `300_model.pth` as published (a whole pickled module), or a state dict
    with the published names or ours, pickled or as safetensors.

    Raises:
        BundleError: it is not such a classifier, or asks for a class that none needs; nothing in it was executed.
        OSError: the file cannot be read.
    """
    if path.suffix == SAFETENSORS:
        tensors, layout = read_safetensors(path), "safetensors state dict"
    else:
        pickled = read_pickled(path)
        is_module = isinstance(pickled.root, Record)
        refs = _of_module(pickled.root, path) if is_module else _of_state_dict(pickled.root, path)
        tensors = {name: torch.from_numpy(array) for name, array in pickled.arrays(refs).items()}
        layout = "pickled module" if is_module else "pickled state dict"
    named = {_our_name(name): tensor for name, tensor in tensors.items()}
    first = named.get(_FIRST)
    if first is None or first.ndim != 2 or not first.numel():
        raise CheckpointError(f"{path} has no weights hidden_layer.weight [hidden, features]")
    hidden, features = first.shape
    try:
        config = HeadConfig(hidden)
    except BundleError as error:
        raise CheckpointError(f"{path}: {error}") from error
    meta = torch.device("meta")
    with meta:
        model = Head(features, hidden)
    fill("head", model, named, meta, torch.float32)
    return Part(config, named, layout, [path])


def features_of(head: Part[HeadConfig]) -> int:
    """How many features a head takes."""
    return head.tensors[_FIRST].shape[1]


def _our_name(name: str) -> str:
    module, dot, kind = name.partition(".")
    return _RENAMED.get(module, module) + dot + kind


def _of_state_dict(root: Any, path: Path) -> dict[str, TensorRef]:
    if not isinstance(root, dict) or not root:
        raise CheckpointError(f"{path} is neither a {CLASSIFIER} nor a state dict")
    bad = [name for name, value in root.items() if not isinstance(value, TensorRef)]
    if bad or not all(isinstance(name, str) for name in root):
        raise CheckpointError(
            f"{path} is not a state dict: {shown(bad[0]) if bad else 'a name'} does not belong there"
        )
    return dict(root)


def _of_module(module: Record, path: Path) -> dict[str, TensorRef]:
    """The weights of a pickled classifier, by the names of its state dict."""
    if module.kind != CLASSIFIER:
        raise CheckpointError(f"{path} is a {module.kind}, not VirNucPro's {CLASSIFIER}")
    refs: dict[str, TensorRef] = {}
    for name, child in _entries(module, "_modules").items():
        if not isinstance(child, Record):
            raise CheckpointError(f"{path}: {shown(name)} is not a module")
        if child.kind in _WITHOUT_WEIGHTS:
            continue
        if _EXPECTED.get(name) != child.kind:
            raise CheckpointError(
                f"{path}: {shown(name)} is a {child.kind}, which VirNucPro's {CLASSIFIER} has not"
            )
        if child.kind == "BatchNorm1d" and child.state.get("eps") != _NORM_EPS:
            raise CheckpointError(
                f"{path}: {name} has eps {shown(child.state.get('eps'))}, only {_NORM_EPS} works"
            )
        for group in ("_parameters", "_buffers"):
            for kind, value in _entries(child, group).items():
                if not isinstance(value, TensorRef):
                    raise CheckpointError(f"{path}: {name}.{shown(kind)} is not a tensor")
                refs[f"{name}.{kind}"] = value
    return refs


def _entries(module: Record, group: str) -> dict[str, Any]:
    entries = module.state.get(group)
    return entries if isinstance(entries, dict) else {}
