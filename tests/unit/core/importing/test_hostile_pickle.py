"""A checkpoint is what a stranger wrote. One that would create a file when it is loaded creates nothing here.

Every payload is first loaded as `pickle.load` would, to show that it works.
"""

from __future__ import annotations

import builtins
import io
import operator
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from consumer.cli.app import run
from tests.support.checkpoints import (
    MLPClassifier,
    Published,
    fair_esm,
    pickled_from_script,
    trained_classifier,
)
from virnucpro_core.importing.checkpoints import load_pickled
from virnucpro_core.importing.import_error import CheckpointError
from virnucpro_core.importing.restricted_unpickler import Pickled, TensorRef, read_pickled
from virnucpro_core.importing.storages import StorageRef


class Payload:
    """Pickled as a call: `Payload(function, *arguments)`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def touch_by_open(marker: Path) -> Payload:
    return Payload(open, str(marker), "w")


def touch_by_system(marker: Path) -> Payload:
    return Payload(os.system, f"touch '{marker}'")


def touch_by_exec(marker: Path) -> Payload:
    return Payload(builtins.exec, f"open({str(marker)!r}, 'w').close()")


def touch_by_method(marker: Path) -> Payload:
    return Payload(operator.methodcaller("touch"), marker)


def touch_by_torch(marker: Path) -> Payload:
    return Payload(torch.save, 1, str(marker))


PAYLOADS = {
    touch_by_open: r"_?io\.open",
    touch_by_system: rf"{os.system.__module__}\.system",
    touch_by_exec: r"(__builtin__\.)?exec",
    touch_by_method: r"operator\.methodcaller",
    touch_by_torch: r"torch\.serialization\.save",
}
"""What each asks for, as a pattern."""


class _FromScript(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return (
            MLPClassifier
            if (module, name) == ("__main__", "MLPClassifier")
            else super().find_class(module, name)
        )

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "module":
            return pid[1]
        return torch.storage.TypedStorage(4096, dtype=torch.float32, _internal=True)


def unrestricted(path: Path) -> None:
    """Run the pickle of a checkpoint, as a loader without care does."""
    content = path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            content = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    stream = io.BytesIO(content)
    while stream.tell() < len(content):
        try:
            made = _FromScript(stream).load()
        except (pickle.UnpicklingError, EOFError):  # the storages of the older format follow
            return
        close_files(made)


def close_files(made: object) -> None:
    """Close what a payload has opened, wherever it is in what was loaded."""
    if isinstance(made, io.IOBase):
        made.close()
    elif isinstance(made, Mapping):
        for part in made.values():
            close_files(part)
    elif isinstance(made, list | tuple):
        for part in made:
            close_files(part)
    elif hasattr(made, "note"):
        close_files(made.note)


def in_module(payload: Payload, path: Path, legacy: bool) -> None:
    """A whole classifier that works, with the payload among its attributes."""
    model = trained_classifier()
    model.note = payload
    with pickled_from_script():
        torch.save(model, path, _use_new_zipfile_serialization=not legacy)


def in_state_dict(payload: Payload, path: Path, legacy: bool) -> None:
    weights = dict(trained_classifier().state_dict())
    torch.save(weights | {"note": payload}, path, _use_new_zipfile_serialization=not legacy)


def instead(payload: Payload, path: Path, legacy: bool) -> None:
    """Nothing but the payload."""
    torch.save(payload, path, _use_new_zipfile_serialization=not legacy)


def before(payload: Payload, path: Path, legacy: bool) -> None:
    """A plain pickle, which loaders of the older format run to see whether it is a magic number."""
    path.write_bytes(pickle.dumps(payload, protocol=2))


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Published:
    return Published(tmp_path_factory.mktemp("published"))


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "created"


def assert_refused(arguments: list[str], name: str, file: str, marker: Path, output: Path, capsys) -> None:
    assert run(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("virnucpro: error: ")
    assert re.search(rf"/{file} is refused, and nothing of it was run: it asks for {name}, ", line)
    assert not marker.exists()
    assert not output.exists()


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: payload.__name__)
@pytest.mark.parametrize(
    "place", [in_module, in_state_dict, instead, before], ids=lambda place: place.__name__
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_hostile_head(payload, place, legacy, published, marker, tmp_path, capsys):
    path = tmp_path / "500_model.pth"
    place(payload(marker), path, legacy)
    unrestricted(path)
    assert marker.exists()
    marker.unlink()
    output = tmp_path / "out"
    assert_refused(
        published.arguments(output, head=path), PAYLOADS[payload], path.name, marker, output, capsys
    )


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: payload.__name__)
@pytest.mark.parametrize("place", [in_state_dict, instead, before], ids=lambda place: place.__name__)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("part", ["dnabert_s", "esm2"])
def test_a_hostile_bin_or_pt(payload, place, legacy, part, published, marker, tmp_path, capsys):
    path = tmp_path / ("pytorch_model.bin" if part == "dnabert_s" else "esm2.pt")
    place(payload(marker), path, legacy)
    unrestricted(path)
    assert marker.exists()
    marker.unlink()
    output = tmp_path / "out"
    arguments = published.arguments(output, **{part: path})
    assert_refused(arguments, PAYLOADS[payload], path.name, marker, output, capsys)


def test_a_payload_in_the_options_of_a_pt(published, marker, tmp_path, capsys):
    content = torch.load(fair_esm(published.esm2, tmp_path / "esm2.pt"), weights_only=False)
    content["cfg"]["model"].note = touch_by_open(marker)
    torch.save(content, tmp_path / "esm2.pt")
    output = tmp_path / "out"
    arguments = published.arguments(output, esm2=tmp_path / "esm2.pt")
    assert_refused(arguments, r"_?io\.open", "esm2.pt", marker, output, capsys)


LATER_PICKLES = {"protocol": 1, "system": 2, "keys": 4}


@pytest.mark.parametrize("which", LATER_PICKLES)
def test_a_payload_in_any_pickle_of_the_older_format(which, marker, tmp_path):
    """Magic number, protocol, system, object and storage keys are pickles of their own."""
    path = tmp_path / "head.pth"
    torch.save(trained_classifier().state_dict(), path, _use_new_zipfile_serialization=False)
    content, pieces = path.read_bytes(), []
    stream = io.BytesIO(content)
    for _ in range(LATER_PICKLES[which]):
        start = stream.tell()
        _FromScript(stream).load()
        pieces.append(content[start : stream.tell()])
    path.write_bytes(b"".join(pieces) + pickle.dumps(touch_by_open(marker), protocol=2))
    with pytest.raises(CheckpointError, match=r"it asks for _?io\.open"):
        read_pickled(path)
    assert not marker.exists()


OPCODES = {
    # getattr chains by dotted names, which protocol 4 resolves
    "dotted name": b"\x80\x04\x8c\x0btorch._utils\x94\x8c\x1b_rebuild_tensor_v2.__globals__\x94\x93.",
    "extension registry": b"\x80\x02\x82\x01.",
    "module attribute": b"ctorch\nos\n.",
    "storage of another kind": b"ctorch\nUntypedStorage\n.",
    "torch.load": b"ctorch\nload\n.",
    "parent class": b"ctorch.nn.modules.module\nModule\n.",
    "look-alike": b"cevil.linear\nLinear\n.",
}


@pytest.mark.parametrize("program", OPCODES)
def test_names_next_to_the_list_are_not_on_it(program, tmp_path):
    before = set(sys.modules)
    with pytest.raises(CheckpointError):
        read_pickled(written(tmp_path, OPCODES[program]))
    assert {name for name in sys.modules if not name.startswith("encodings.")} <= before


def written(folder: Path, program: bytes) -> Path:
    """A file of the zip format with this pickle."""
    path = folder / "head.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("head/data.pkl", program)
    return path


ALTERATIONS = {
    "a function": b"\x80\x02ctorch._utils\n_rebuild_parameter\n}X\x01\x00\x00\x00aK\x01sb.",
    "a function by slots": b"\x80\x02ctorch._utils\n_rebuild_parameter\nN}X\x0c\x00\x00\x00__defaults__K\x01s\x86b.",
    "a class by slots": b"\x80\x02ctorch.nn.modules.linear\nLinear\nN}X\x01\x00\x00\x00aK\x01s\x86b.",
    "a container's class": b"\x80\x02ccollections\nOrderedDict\nN}X\x01\x00\x00\x00aK\x01s\x86b.",
    "a storage's type": b"\x80\x02ctorch\nFloatStorage\n}X\x01\x00\x00\x00aK\x01sb.",
}


@pytest.mark.parametrize("program", ALTERATIONS)
def test_nothing_that_a_pickle_reaches_can_be_altered(program, tmp_path):
    with pytest.raises(CheckpointError, match="is damaged"):
        read_pickled(written(tmp_path, ALTERATIONS[program]))


def test_records_are_inert(tmp_path):
    """A class of the list becomes a record of a new type each time, and never torch's own."""
    program = b"\x80\x02ctorch.nn.modules.linear\nLinear\n)\x81ctorch.nn.modules.linear\nLinear\n)\x81\x86."
    first, second = read_pickled(written(tmp_path, program)).root
    assert first.kind == second.kind == "Linear"
    assert type(first) is not type(second)
    assert not isinstance(first, torch.nn.Module)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (0, (2, 2), (3, 1)),
        (0, (1000,), (0,)),
        (0, (2**40, 2**40), (0, 0)),
        (-1, (2,), (1,)),
        (3, (2,), (-1,)),
        (0, (-1,), (1,)),
        (0, (2, 2), (1,)),
        (2**70, (1,), (1,)),
        (5, (0,), (1,)),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(offset, size, stride):
    four = StorageRef("0", "FloatStorage", 4)
    pickled = Pickled(Path("head.pth"), None, {"0": bytes(16)})
    with pytest.raises(CheckpointError, match=r"head\.pth is damaged"):
        pickled.array(TensorRef(four, offset, size, stride))
    assert pickled.array(TensorRef(four, 0, (2, 2), (2, 1))).shape == (2, 2)


def test_a_compressed_entry_is_refused(tmp_path):
    path = tmp_path / "head.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("head/data.pkl", pickle.dumps([0] * 1000, protocol=2))
    with pytest.raises(CheckpointError, match="a compressed entry"):
        read_pickled(path)


@pytest.mark.parametrize("place", ["an entry before the file", "a directory on another disk"])
def test_a_damaged_directory_of_a_zip_file_is_refused(place, tmp_path):
    """Found by fuzzing: the zipfile module raises for them what it does not document."""
    path = written(tmp_path, pickle.dumps([0], protocol=2))
    content = bytearray(path.read_bytes())
    end = content.rindex(b"PK\5\6")
    if place == "an entry before the file":
        # The directory is said to begin later than it does, so that each entry is looked for before the file.
        content[end + 16 : end + 20] = (len(content)).to_bytes(4, "little")
    else:
        locator = (
            b"PK\6\7" + (0).to_bytes(4, "little") + (0).to_bytes(8, "little") + (7).to_bytes(4, "little")
        )
        content[end:end] = locator
    path.write_bytes(bytes(content))
    for read in (read_pickled, load_pickled):
        with pytest.raises(CheckpointError, match="is damaged"):
            read(path)


def test_a_file_of_the_older_format_whose_storages_torch_asserts_is_refused(tmp_path):
    """Found by fuzzing: the list of storages names one that the pickle does not have."""
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    content, stream = path.read_bytes(), io.BytesIO(path.read_bytes())
    for _ in range(4):
        _FromScript(stream).load()
    start = stream.tell()
    (key,) = pickle.load(stream)
    path.write_bytes(content[:start] + pickle.dumps([f"{key}0"], protocol=2) + content[stream.tell() :])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_pickled(path)
