"""What is fuzzed: readers of bytes that others send, each with the errors that it documents, and inputs to begin with.

A target's `run` raises for nothing but a defect: any other exception is one, and so is an answer over its bounds.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import pickle
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

from schemas import (
    MalformedMessage,
    encode_dead_letter,
    encode_prediction,
    encode_record,
    json_text,
)
from schemas.avro import confluent_prefix
from schemas.codecs import VALUE_SCHEMA_ID, AvroCodec, Decoder, EitherDecoder, JsonCodec
from schemas.contracts import UnusableSchema, schema_json
from tests.support.checkpoints import ESM2, fair_esm, save_classifier, trained_classifier, trained_esm2
from tests.support.messages import LETTER, PREDICTION, RECORD
from tests.support.models_fixture import random_bundle
from virnucpro_core.bundle.bundle import MANIFEST, Bundle
from virnucpro_core.bundle.manifest import BundleError
from virnucpro_core.bundle.safetensors_header import read_header
from virnucpro_core.importing.checkpoints import read_checkpoint
from virnucpro_core.importing.dnabert_s_checkpoint import read_dnabert_s
from virnucpro_core.importing.esm2_checkpoint import read_esm2
from virnucpro_core.importing.head_checkpoint import read_head
from virnucpro_core.models.engine import Engine
from virnucpro_core.sequence.fasta import SequenceFileError, read_sequences

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MOST_BYTES = 1 << 16
"""Of an input of the long run."""
_DETAIL_LETTERS, _ERROR_LETTERS = 300, 2000
_MOST_BASES = 1000
_DATA = Path(__file__).parents[1] / "data"


@dataclass(frozen=True)
class Target:
    """One reader: `seeds` are inputs from which others are made, `run` reads one."""

    name: str
    seeds: Callable[[], Sequence[bytes]]
    run: Callable[[bytes], None]


# ---- messages ---------------------------------------------------------------------------------------------------


def _message_seeds() -> list[bytes]:
    """The first byte chooses the kind and the codec, the second says how many bytes are the header's."""
    guid = b"\1" + UUID(int=5).bytes
    bodies = [
        encode_record(RECORD),
        encode_record(RECORD, confluent_prefix(1)),
        json_text.encode_record(RECORD),
    ]
    bodies += [encode_prediction(PREDICTION), json_text.encode_prediction(PREDICTION)]
    bodies += [encode_dead_letter(LETTER), json_text.encode_dead_letter(LETTER)]
    seeds = [bytes([kind, 0]) + body for kind in range(9) for body in bodies]
    return [*seeds, bytes([0, len(guid)]) + guid + encode_record(RECORD, b"")]


def _messages(data: bytes) -> None:
    kind, size = (*data[:2], 0, 0)[:2]
    header, value = data[2 : 2 + size], data[2 + size :]
    avro, plain = AvroCodec(), JsonCodec()
    decoder: Decoder = (avro, plain, EitherDecoder(avro, plain))[kind // 3 % 3]
    decode = (decoder.decode_record, decoder.decode_prediction, decoder.decode_dead_letter)[kind % 3]
    _decoded(lambda: decode(value, ((VALUE_SCHEMA_ID, header),) if size else ()))


# ---- a writer's schema, from a registry ---------------------------------------------------------------------------


def _schema_seeds() -> list[bytes]:
    body = encode_record(RECORD, b"")
    texts = [schema_json("sequence_record"), schema_json("prediction"), '{"type":"map","values":"bytes"}']
    return [text.encode() + b"\0" + body for text in texts]


def _schemas(data: bytes) -> None:
    text, _, body = data.partition(b"\0")

    def schema(_: object) -> dict[str, Any]:
        try:
            return json.loads(text)  # type: ignore[no-any-return]
        except (ValueError, RecursionError) as error:
            raise UnusableSchema("not JSON") from error

    codec = AvroCodec(schema)
    _decoded(lambda: codec.decode_record(b"\0\0\0\0\1" + body, ()))


def _decoded(decode: Callable[[], object]) -> None:
    try:
        decode()
    except MalformedMessage as error:
        _one_line(error.detail, _DETAIL_LETTERS)


# ---- sequence files -----------------------------------------------------------------------------------------------


_WRAPPED: tuple[Callable[[bytes], bytes], ...] = (
    bytes,
    lambda data: gzip.compress(data, 1),
    lambda data: bz2.compress(data, 1),
    lambda data: lzma.compress(data, preset=0),
    lambda data: zstd.compress(data, 1),
)


def _sequence_seeds() -> list[bytes]:
    """The first byte chooses what the rest is compressed with before it is read."""
    fasta, fastq = b">a b\nACGT\nAC GT\n\n# c\n>b\nTTTT\n", b"@a\nACGT\n+\nIIII\n\n@b\nAC\n+b\nII\n"
    bam = gzip.decompress((_DATA / "reads.bam").read_bytes())
    plain = [bytes([kind]) + text for kind in range(len(_WRAPPED)) for text in (fasta, fastq, bam)]
    packed = [b"\0" + wrap(fasta) for wrap in _WRAPPED] + [b"\0" + (_DATA / "reads.bam").read_bytes()]
    return plain + packed


def _sequences(data: bytes) -> None:
    path = _folder() / "sequences"
    path.write_bytes(_WRAPPED[data[0] % len(_WRAPPED)](data[1:]) if data else b"")
    with warnings.catch_warnings(), suppress(SequenceFileError):
        warnings.simplefilter("ignore")
        for name, _, sequence in read_sequences(str(path), _MOST_BASES):
            assert name
            assert len(sequence) <= _MOST_BASES + 1


# ---- bundles ------------------------------------------------------------------------------------------------------


@cache
def _bundle() -> Bundle:
    return random_bundle(_folder() / "bundle")


def _bundle_seeds() -> list[bytes]:
    """The first byte chooses the file that the rest is put in place of; the manifest has the sums of that."""
    bundle = _bundle()
    files = [bundle.path / MANIFEST, *map(bundle.file, bundle.manifest.files)]
    return [bytes([number]) + file.read_bytes() for number, file in enumerate(files)]


def _bundles(data: bytes) -> None:
    good = _bundle()
    roles = [None, *good.manifest.files]
    role, content = roles[data[0] % len(roles)] if data else None, data[1:]
    names = {entry.name for entry in good.manifest.files.values()} | {MANIFEST}
    path = _folder() / "altered"
    path.mkdir(exist_ok=True)
    for name in names:
        (path / name).unlink(missing_ok=True)
        (path / name).symlink_to(good.path / name)
    if role is None:
        changed = path / MANIFEST
    else:
        manifest = json.loads((good.path / MANIFEST).read_bytes())
        entry = good.manifest.files[role]
        sums = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest["files"][role] |= sums
        (path / MANIFEST).unlink()
        (path / MANIFEST).write_text(json.dumps(manifest))
        changed = path / entry.name
    changed.unlink()
    changed.write_bytes(content)
    if role is not None and role != "tokenizer":
        with suppress(ValueError):
            read_header(changed)
    try:
        loaded = Bundle.load(path)
        loaded.tokenizer().encode(["ACGTNACGT"])
        Engine(loaded, device="cpu", self_test=False)
    except BundleError as error:
        _one_line(error)


# ---- checkpoints --------------------------------------------------------------------------------------------------


def _checkpoint_seeds() -> list[bytes]:
    """The first byte chooses: the rest is a file as it is, or the pickle within one in the format of now."""
    folder = _folder()
    small = replace(ESM2, layers=1, dim=8, heads=1)
    classifier = trained_classifier(features=6, hidden=4)
    files = [
        fair_esm(trained_esm2(small), folder / "esm2.pt"),
        fair_esm(trained_esm2(small), folder / "esm2-args.pt", layout="args"),
        save_classifier(classifier, folder / "head.pth"),
        save_classifier(classifier, folder / "old.pth", legacy=True),
    ]
    seeds = [b"\0" + file.read_bytes() for file in files]
    for file in files[:3]:
        with zipfile.ZipFile(file) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            seeds.append(b"\1" + archive.read(name))
    return [*seeds, b"\1" + pickle.dumps({"a": [1, (2.0, None)]}, protocol=2)]


def _checkpoints(data: bytes) -> None:
    path = _folder() / "checkpoint.pt"
    as_it_is = not data or data[0] % 2 == 0
    path.write_bytes(data[1:] if as_it_is else _archive(data[1:]))
    for read in (read_checkpoint, read_esm2, read_dnabert_s, read_head):
        try:
            read(path)
        except BundleError as error:
            _one_line(error)


def _archive(pickled: bytes) -> bytes:
    """As torch.save writes it, with one storage of 4 KiB for each number that a small checkpoint has."""
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", b"little")
        for number in range(8):
            archive.writestr(f"archive/data/{number}", bytes(4096))
        archive.writestr("archive/version", b"3\n")
    return out.getvalue()


# ---- shared -------------------------------------------------------------------------------------------------------


def _one_line(error: object, most: int = _ERROR_LETTERS) -> None:
    """What people are told is not empty, bounded, and one line."""
    text = str(error)
    assert 0 < len(text) <= most
    assert "\n" not in text


@cache
def _folder() -> Path:
    """For the files of this process."""
    holder = tempfile.TemporaryDirectory(prefix="fuzz-")
    _HELD.append(holder)
    return Path(holder.name)


_HELD: list[tempfile.TemporaryDirectory[str]] = []

TARGETS = {
    target.name: target
    for target in (
        Target("messages", _message_seeds, _messages),
        Target("schemas", _schema_seeds, _schemas),
        Target("sequences", _sequence_seeds, _sequences),
        Target("bundles", _bundle_seeds, _bundles),
        Target("checkpoints", _checkpoint_seeds, _checkpoints),
    )
}
