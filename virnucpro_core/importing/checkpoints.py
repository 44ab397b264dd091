"""Reads checkpoint files into tensors by name, mapped from the file rather than copied, and runs nothing of them."""

from __future__ import annotations

import argparse
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from virnucpro_core.importing.import_error import CheckpointError
from virnucpro_core.importing.storages import is_zip

SAFETENSORS = ".safetensors"
_CONFIG = "config.json"
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_INDEX = tuple(f"{name}.index.json" for name in _WHOLE)
_ASKED_FOR = re.compile(r"GLOBAL (\S+)")


class Checkpoint:
    """Weights by name, and where they came from.

    Attributes:
        tensors: on the CPU. They are read when they are used.
        files: all files that they are in.
        config: the content of the config.json beside them, {} without one.
    """

    def __init__(self, tensors: Mapping[str, Any], files: list[Path], config: dict[str, Any]) -> None:
        bad = [name for name, tensor in tensors.items() if not _is_plain(tensor)]
        if bad:
            raise CheckpointError(f"{files[0]}: {bad[0]!r} is not a tensor of numbers")
        self.tensors: dict[str, Tensor] = dict(tensors)
        self.files, self.config = files, config


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a Hugging Face folder (whole or in shards, safetensors first), or one file of weights by name.

    Raises:
        CheckpointError: there are no such weights, they are damaged, or a pickle asks for more than tensors.
        OSError: a file cannot be read.
    """
    files = _files_of(path) if path.is_dir() else [path]
    tensors: dict[str, Any] = {}
    for file in files:
        content = _read(file)
        if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
            raise CheckpointError(f"{file} holds no weights by name")
        tensors |= content
    config = files[0].with_name(_CONFIG)
    return Checkpoint(tensors, files, read_json(config) if config.is_file() else {})


def load_pickled(path: Path) -> Any:
    """What `torch.save` wrote, if it is made of tensors, plain containers and argparse.Namespace.

    Raises:
        CheckpointError: it asks for anything else, which is named, or it is damaged.
        OSError: the file cannot be read.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            # Only the zip format can be mapped; the older one is read into memory.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip(path))
    except pickle.UnpicklingError as error:
        asked_for = _ASKED_FOR.search(str(error))
        if asked_for is None:
            raise _damaged(path, error) from error
        raise CheckpointError(
            f"{path} is refused, and nothing of it was run: it asks for {asked_for[1]}, which no weights "
            "need; take the file from its publisher again"
        ) from error
    except (RuntimeError, EOFError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise _damaged(path, error) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: it is not a JSON object.
        OSError: the file cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}): fetch it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object: fetch it again")
    return content


def size(config: Mapping[str, Any], name: str, where: str) -> int:
    """A positive whole number of a configuration.

    Raises:
        CheckpointError: it is missing, or something else.
    """
    value = config.get(name)
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{where}: {name!r} must be a positive number, not {value!r}")
    return value


def require(config: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    """Refuse a configuration that says something else than the only values that are implemented.

    Raises:
        CheckpointError: it names the first. An entry that is not there is taken for the right one.
    """
    for name, value in wanted.items():
        if config.get(name, value) != value:
            raise CheckpointError(f"{where}: {name} is {config[name]!r}, only {value!r} can be imported")


def _files_of(folder: Path) -> list[Path]:
    for whole, index in zip(_WHOLE, _INDEX, strict=True):
        if (folder / whole).is_file():
            return [folder / whole]
        if (folder / index).is_file():
            return _shards(folder / index)
    raise CheckpointError(f"{folder} holds no weights: it needs {' or '.join(_WHOLE + _INDEX)}")


def _shards(index: Path) -> list[Path]:
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(f"{index} has no weight_map: fetch it again")
    names = sorted({str(name) for name in placed.values()})
    if outside := [name for name in names if PurePath(name).name != name]:
        raise CheckpointError(f"{index}: {outside[0]!r} is not a plain file name")
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise CheckpointError(f"{index.parent / missing[0]} is missing: fetch it")
    return [index.parent / name for name in names]


def _read(file: Path) -> Any:
    if file.suffix != SAFETENSORS:
        return load_pickled(file)
    try:
        return load_file(file)
    except SafetensorError as error:
        raise _damaged(file, error) from error


def _is_plain(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_quantized


def _damaged(path: Path, error: Exception) -> CheckpointError:
    why = " ".join(str(error).split())[:120] or type(error).__name__
    return CheckpointError(f"{path} is damaged, or not of its format ({why}): fetch it again")
