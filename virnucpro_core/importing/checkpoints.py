"""Reads checkpoint files into tensors by name, mapped from the file rather than copied, and runs nothing of them."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from virnucpro_core.bundle.manifest import BundleError, DnabertSConfig, Esm2Config
from virnucpro_core.importing.import_error import CheckpointError
from virnucpro_core.importing.pickle_program import globals_of
from virnucpro_core.importing.storages import is_zip, zip_content
from virnucpro_core.regular_files import UnusableFile, check_regular, read_small
from virnucpro_core.wording import one_line, shown

SAFETENSORS = ".safetensors"
_CONFIG = "config.json"
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_INDEX = tuple(f"{name}.index.json" for name in _WHOLE)
_JSON_BYTES = 16 * 2**20
_NEEDED = re.compile(
    r"collections\.OrderedDict|torch\._utils\._rebuild_(tensor_v2|parameter)|torch\.\w+Storage|argparse\.Namespace"
)
"""Globals of published checkpoints. torch's own list is longer: some of its entries make memory out of a number."""
_Config = TypeVar("_Config", Esm2Config, DnabertSConfig)
_LEGACY_PICKLES = 5
"""Magic number, protocol, system, object and storage keys, one after the other."""


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
            raise CheckpointError(f"{files[0]}: {shown(bad[0])} is not a tensor of numbers")
        # Twice: tied weights are there under two names.
        if sum(t.nbytes for t in tensors.values()) > 2 * sum(file.stat().st_size for file in files):
            raise CheckpointError(f"{files[0]} holds tensors that are larger than the file: fetch it again")
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
        CheckpointError: it asks for anything else, which is named, or it is damaged, not a regular file, or would take
            more memory or time than its size accounts for.
        OSError: the file cannot be read.
    """
    try:
        is_mapped = is_zip(path)
        asked_for = _zip_globals(path) if is_mapped else _legacy_globals(path)
        if refused := sorted(name for name in asked_for if not _NEEDED.fullmatch(name)):
            raise CheckpointError(
                f"{path} is refused, and nothing of it was run: it asks for {one_line(refused[0])}, which no weights "
                "need; take the file from its publisher again"
            )
        with torch.serialization.safe_globals([argparse.Namespace]):
            # Only the zip format can be mapped; the older one is read into memory.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except CheckpointError:
        raise
    except UnusableFile as error:
        raise CheckpointError(f"{path} {error}") from error
    except (
        *(pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError),
        *(LookupError, AttributeError, OverflowError, MemoryError, struct.error),
        AssertionError,  # torch asserts what a file of the older format says of its storages
    ) as error:
        raise _damaged(path, error) from error


def _zip_globals(path: Path) -> frozenset[str]:
    with zip_content(path) as (pickled, _):
        return globals_of(pickled)


def _legacy_globals(path: Path) -> frozenset[str]:
    """Of all pickles of the older format, or as many as there are: a reader runs the first before it knows."""
    found: frozenset[str] = frozenset()
    with path.open("rb") as file:
        for _ in range(_LEGACY_PICKLES):
            if not file.peek(1):
                break
            found |= globals_of(file)
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: it is not a JSON object, not a regular file, or far too large.
        OSError: the file cannot be read.
    """
    try:
        content = json.loads(read_small(path, _JSON_BYTES).decode("utf-8"))
    except UnusableFile as error:
        raise CheckpointError(f"{path} {error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({one_line(error)}): fetch it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object: fetch it again")
    return content


def shape_of(kind: type[_Config], config: Mapping[str, Any], names: Mapping[str, str], where: str) -> _Config:
    """The shape of a model from a configuration.

    Args:
        names: of the configuration's entries, by the fields of `kind`.
        where: the configuration's place, for the error.

    Raises:
        CheckpointError: an entry is missing, not a positive number, or of a model that there is not.
    """
    for name in names.values():
        if type(config.get(name)) is not int or config[name] < 1:
            raise CheckpointError(
                f"{where}: {name!r} must be a positive number, not {shown(config.get(name))}"
            )
    try:
        return kind(**{field: config[name] for field, name in names.items()})
    except BundleError as error:
        raise CheckpointError(f"{where}: {error}") from error


def require(config: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    """Refuse a configuration that says something else than the only values that are implemented.

    Raises:
        CheckpointError: it names the first. An entry that is not there is taken for the right one.
    """
    for name, value in wanted.items():
        if config.get(name, value) != value:
            raise CheckpointError(f"{where}: {name} is {shown(config[name])}, only {value!r} can be imported")


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
    if outside := [name for name in names if PurePath(name).name != name or not name.isprintable()]:
        raise CheckpointError(f"{index}: {shown(outside[0])} is not a plain file name")
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise CheckpointError(f"{index.parent / missing[0]} is missing: fetch it")
    return [index.parent / name for name in names]


def _read(file: Path) -> Any:
    return read_safetensors(file) if file.suffix == SAFETENSORS else load_pickled(file)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        CheckpointError: it is damaged, or not a regular file.
        OSError: the file cannot be read.
    """
    try:
        check_regular(path)
        return load_file(path)
    except UnusableFile as error:
        raise CheckpointError(f"{path} {error}") from error
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _is_plain(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_quantized


def _damaged(path: Path, error: Exception) -> CheckpointError:
    why = one_line(error, 120) or type(error).__name__
    return CheckpointError(f"{path} is damaged, or not of its format ({why}): fetch it again")
