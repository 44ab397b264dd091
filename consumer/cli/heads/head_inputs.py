"""The input of `virnucpro train-head`: feature files, labels, and the bundle that the features were made with."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from consumer.cli.error_messages import UserError
from consumer.cli.files.inputs import named
from consumer.errors import ExitCode
from virnucpro_core.bundle.bundle import Bundle, bundled, find_bundle, read_manifest
from virnucpro_core.evaluation.labels import read_labels
from virnucpro_core.hashing import sha256_of
from virnucpro_core.heads.feature_file import FeatureFile, check_same_frames
from virnucpro_core.heads.feature_reader import read_features
from virnucpro_core.heads.splits import LabelledRecords


class HeadInputs:
    """Reads and checks everything before any work is done.

    Args:
        features, labels: the files.
        model: name or folder of the bundle that the features were made with, None for the one that the file names.
        second: a feature file of the same frames to compare with.

    Attributes:
        files: the feature files by a name that distinguishes them, the first one first.
        labels: as given.
        base: the bundle.
        records: those that have a label and a frame.

    Raises:
        FeatureFileError, LabelFileError, BundleError, UserError: a file cannot be used.
    """

    def __init__(self, features: Path, labels: Path, model: str | None, second: Path | None) -> None:
        self.labels = labels
        table = read_labels(labels)
        first = read_features(features)
        self.base = _base(first, model)
        self.files = {first.info.attention: first}
        if second is not None:
            other = read_features(second)
            check_same_frames(first, other)
            self.files = dict(zip(_names(first, other), (first, other), strict=True))
        self.records = LabelledRecords(first, table)

    @property
    def first(self) -> str:
        """The name of the file whose head goes into the bundle."""
        return next(iter(self.files))

    @property
    def arguments(self) -> list[str]:
        """Of the command line, with the files' plain names."""
        features, *compared = [file.path.name for file in self.files.values()]
        pairs = [["--compare", name] for name in compared]
        return [features, "--labels", self.labels.name, *(word for pair in pairs for word in pair)]

    def data(self) -> dict[str, Any]:
        """Names and digests of the files, and where the features came from, as JSON takes it."""
        files = {
            name: {"name": file.path.name, "sha256": sha256_of(file.path), **asdict(file.info)}
            for name, file in self.files.items()
        }
        return {"features": files, "labels": named(self.labels)}


def _base(file: FeatureFile, model: str | None) -> Bundle:
    """The bundle that features were made with, checked; raises UserError or BundleError."""
    made_with = f"{file.path} was made with the model {file.info.model_id}"
    if model is None and file.info.model_id not in bundled():
        raise UserError(
            f"{made_with}, which does not come with the package: name its folder with --model", ExitCode.USAGE
        )
    path = find_bundle(model or file.info.model_id)
    _, sha256 = read_manifest(path)
    if sha256 != file.info.model_sha256:
        raise UserError(
            f"{made_with} of sha256 {file.info.model_sha256[:12]}, but {path} has {sha256[:12]}: name that model "
            "with --model, or make the features again with this one"
        )
    return Bundle.load(path)


def _names(first: FeatureFile, second: FeatureFile) -> tuple[str, str]:
    """What distinguishes two files in the report: attention, precision, or their names."""
    a, b = first.info, second.info
    for one, other in (
        (a.attention, b.attention),
        (f"{a.attention} {a.precision}", f"{b.attention} {b.precision}"),
        (first.path.name, second.path.name),
    ):
        if one != other:
            return one, other
    return "first", "second"
