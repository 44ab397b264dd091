"""Model bundles: a folder with a manifest, the weights as safetensors, and the tokenizer.

Reading and checking a bundle needs no torch; only its tensors do. Nothing in a bundle is ever executed.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from virnucpro_core.bundle.manifest import (
    ROLES,
    BundleError,
    FileEntry,
    Manifest,
)
from virnucpro_core.hashing import sha256_of
from virnucpro_core.regular_files import UnusableFile, check_regular, read_small
from virnucpro_core.sequence.tokens import DnaTokenizer
from virnucpro_core.wording import one_line, some_of

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
_MANIFEST_BYTES = 4 * 2**20
"""Most bytes of a manifest; those of the bundled models, which name every training record, have 0.1 MB."""
_BUNDLED = Path(__file__).parent.parent / "data" / "bundles"
_ALIASES = {"nano": "nano-500"}
_WEIGHT_ROLES = tuple(role for role in ROLES if role != "tokenizer")


def bundled() -> list[str]:
    """The names of the bundles that ship with the package."""
    return sorted(path.parent.name for path in _BUNDLED.glob(f"*/{MANIFEST}"))


def find_bundle(name_or_path: str | Path) -> Path:
    """The folder of a bundle: one that ships with the package, by name ("nano-500"; "nano" for short), or a path.

    Raises:
        BundleError: there is no such bundle.
    """
    name = _ALIASES.get(str(name_or_path), str(name_or_path))
    if name in bundled():
        return _BUNDLED / name
    path = Path(name_or_path).expanduser()
    if not path.is_dir():
        raise BundleError(
            f"no model bundle {str(name_or_path)!r}: give a folder or one of {', '.join(bundled())}"
        )
    if not (path / MANIFEST).is_file():
        raise BundleError(f"{path} is not a model bundle: it has no {MANIFEST}")
    return path


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """The manifest of the bundle at `path`, and its sha256 in hex. The other files are not looked at.

    Raises:
        BundleError: it cannot be read, or is wrong.
    """
    text = _read(path / MANIFEST)
    try:
        return Manifest.from_json(text.decode("utf-8")), hashlib.sha256(text).hexdigest()
    except (BundleError, UnicodeDecodeError) as error:
        raise BundleError(f"{path / MANIFEST}: {one_line(error)}") from error


class Bundle:
    """A bundle whose every file has been checked. Make it with `Bundle.load`.

    Attributes:
        path: its folder.
        manifest: what it says about itself.
        sha256: of manifest.json, in hex; that holds the sha256 of every file, so it stands for them all.
    """

    __slots__ = ("manifest", "path", "sha256")

    def __init__(self, path: Path, manifest: Manifest, sha256: str) -> None:
        self.path, self.manifest, self.sha256 = path, manifest, sha256

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Read the manifest and check the size and the sha256 of every file.

        Raises:
            BundleError: a file is missing, truncated or altered, or the manifest is wrong; it names the file.
        """
        path = Path(path)
        manifest, sha256 = read_manifest(path)
        for role, entry in manifest.files.items():
            _check(path / entry.name, entry, manifest.most_bytes(role))
        return cls(path, manifest, sha256)

    @property
    def expected_length(self) -> int:
        """Bases in a full chunk."""
        return self.manifest.expected_length

    def file(self, role: str) -> Path:
        """The file of a role."""
        return self.path / self.manifest.files[role].name

    def tokenizer(self) -> DnaTokenizer:
        """The nucleotide tokenizer.

        Raises:
            BundleError: the file is not a tokenizer, or has more tokens than the model.
        """
        path = self.file("tokenizer")
        try:
            tokenizer = DnaTokenizer(path)
        except ValueError as error:
            raise BundleError(str(error)) from error
        if tokenizer.vocabulary_size > self.manifest.dnabert_s.vocab:
            raise BundleError(
                f"{path} has {tokenizer.vocabulary_size} tokens, the model {self.manifest.dnabert_s.vocab}"
            )
        return tokenizer

    def tensors(self, role: str, device: str = "cpu") -> dict[str, Tensor]:
        """The weights of a role, by name, as they are stored.

        Raises:
            BundleError: the file is not safetensors.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self.file(role), device=device)
        except SafetensorError as error:
            raise BundleError(f"{self.file(role)}: {error}") from error


def write_bundle(
    path: str | Path,
    draft: Manifest,
    tensors: Mapping[str, Mapping[str, Tensor] | Path],
    tokenizer: str | Path,
    written: Callable[[int], None] = lambda _: None,
) -> Bundle:
    """Write a bundle: either all of it appears at `path`, or nothing. No copy of the weights is made.

    Args:
        path: a folder that does not exist yet.
        draft: the manifest, but for its `files`, which are filled in.
        tensors: by role (esm2, dnabert_s, head), the weights by name, in the types to store (see
            `virnucpro_core.bundle.weights` for how to take them from a model), or the file of another bundle,
            which is copied.
        tokenizer: a tokenizer.json, which is copied.
        written: called with the number of bytes after each piece of the weights.

    Raises:
        BundleError: `path` exists, or what would be written is not a bundle.
        OSError: it cannot be written.
    """
    from virnucpro_core.bundle.safetensors_writer import write_safetensors
    from virnucpro_core.bundle.weights import not_finite

    path = Path(path)
    if path.exists():
        raise BundleError(f"{path} exists already")
    if set(tensors) != set(_WEIGHT_ROLES):
        raise BundleError(f"tensors are needed for exactly {', '.join(_WEIGHT_ROLES)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        for role in _WEIGHT_ROLES:
            weights = tensors[role]
            if isinstance(weights, Path):
                shutil.copyfile(weights, staging / _name(role))
                written(weights.stat().st_size)
            else:
                if bad := not_finite(weights):
                    raise BundleError(
                        f"{role}: weights are NaN or infinite: {some_of(bad)}; take them from their publisher again, "
                        "or train the classifier again with a lower --learning-rate"
                    )
                write_safetensors(staging / _name(role), weights, written)
        shutil.copyfile(tokenizer, staging / _name("tokenizer"))
        manifest = replace(draft, files={role: _describe(staging / _name(role)) for role in ROLES})
        (staging / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        Bundle.load(staging).tokenizer()
        staging.chmod(0o755)
        staging.rename(path)
    except BaseException:
        shutil.rmtree(staging)
        raise
    return Bundle.load(path)


def recalibrated_bundle(base: Bundle, path: str | Path, draft: Manifest) -> Bundle:
    """A copy of a bundle with another manifest; arguments and errors as of `write_bundle`."""
    files = {role: base.file(role) for role in _WEIGHT_ROLES}
    return write_bundle(path, draft, files, base.file("tokenizer"))


def _name(role: str) -> str:
    return "tokenizer.json" if role == "tokenizer" else f"{role}.safetensors"


def _describe(path: Path) -> FileEntry:
    return FileEntry(path.name, sha256_of(path), path.stat().st_size)


def _check(path: Path, entry: FileEntry, most: int) -> None:
    try:
        check_regular(path)
        size = path.stat().st_size
        if size != entry.bytes:
            raise BundleError(
                f"{path} has {size} bytes, its manifest says {entry.bytes}: fetch the bundle again"
            )
        if size > most:  # before it is read: a file with a hole may be of any size
            raise BundleError(
                f"{path} has {size:,} bytes, more than a model of these dimensions has: fetch the bundle again"
            )
        digest = sha256_of(path)
    except UnusableFile as error:
        raise BundleError(f"{path} {error}") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}): fetch the bundle again") from error
    if digest != entry.sha256:
        raise BundleError(
            f"{path} is not the file that its manifest names (sha256 differs): fetch the bundle again"
        )


def _read(path: Path) -> bytes:
    try:
        return read_small(path, _MANIFEST_BYTES)
    except UnusableFile as error:
        raise BundleError(f"{path} {error}") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror})") from error
