"""`virnucpro models`: model bundles, and making one from published weights."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consumer.cli.invocation import typed
from consumer.cli.options import AsJson, ChunkSize, Device, NewId, Precision, command_group, model_settings
from consumer.cli.output.validation_figures import validation_rows
from consumer.cli.verbosity import Quiet
from consumer.escaping import escaped

if TYPE_CHECKING:
    from virnucpro_core.bundle.manifest import Manifest

models = command_group(
    "Model bundles: make one from published weights, look at it, check it. Guide: docs/models.md."
)

Named = Annotated[
    str | None,
    typer.Argument(metavar="[MODEL]", help="Name or folder of a bundle. [default: VIRNUCPRO_MODEL, or nano]"),
]


@models.command("import")
def import_(
    esm2: Annotated[
        Path,
        typer.Option("--esm2", exists=True, help="ESM-2: fair-esm's .pt file, or a Hugging Face folder."),
    ],
    dnabert_s: Annotated[
        Path, typer.Option("--dnabert-s", exists=True, help="DNABERT-S: its folder, or its file of weights.")
    ],
    head: Annotated[
        Path,
        typer.Option(
            "--head", exists=True, dir_okay=False, help="500_model.pth or 300_model.pth, or a state dict."
        ),
    ],
    expected_length: Annotated[ChunkSize, typer.Option(help="Bases in a chunk: what the head is for.")],
    name: NewId,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="A folder to be made.")],
    tokenizer: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="tokenizer.json. [default: the one by DNABERT-S]"),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Make a bundle from published weights. No code in their files is executed.

    The weights keep the number format that they have. They are streamed: this needs no more memory than one copy
    of them. The folder appears when it is complete.

    Example: `virnucpro models import --esm2 esm2_t36_3B_UR50D.pt --dnabert-s DNABERT-S/ --head 500_model.pth
    --expected-length 500 --id virnucpro-500 --output bundles/virnucpro-500`
    """
    from consumer.cli.error_messages import UserError
    from consumer.cli.files.targets import check_named, check_new_folder
    from consumer.cli.progress import byte_bar
    from virnucpro_core.importing.bundle_builder import build_bundle, read_sources

    check_new_folder(output)
    check_named(name)
    try:
        sources = read_sources(esm2, dnabert_s, head, tokenizer)
        with byte_bar("importing", sources.work) as done:
            bundle = build_bundle(sources, output, name, int(expected_length), done)
    except OSError as error:
        where = error.filename or output
        raise UserError(f"{where}: {error.strerror}; check its rights and the disk") from error
    print(escaped(f"{bundle.path} is complete ({_megabytes(bundle.manifest)}): check it with"))
    print(escaped(f"  {typed('models', 'verify', shlex.quote(str(bundle.path)))}"))


@models.command("list")
def list_(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FOLDER]...", exists=True, file_okay=False, help="Look in these folders too."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the bundled models, and the bundles in the folders that you name.

    A row a bundle, separated by tabs: what to name it, its id, the bases in a chunk, its size, where it is. One
    whose manifest cannot be read is named on stderr, the others are listed, and the exit code is 1.

    Example: `virnucpro models list ~/bundles`
    """
    from consumer.cli.error_messages import UserError, warn
    from virnucpro_core.bundle.bundle import bundled, find_bundle, read_manifest
    from virnucpro_core.bundle.manifest import BundleError

    found = {name: find_bundle(name) for name in bundled()}
    for folder in folders or []:
        for manifest_path in sorted([*folder.glob("manifest.json"), *folder.glob("*/manifest.json")]):
            found[str(manifest_path.parent)] = manifest_path.parent
    manifests: dict[str, Manifest] = {}
    damaged = 0
    for name, path in found.items():
        try:
            manifests[name] = read_manifest(path)[0]
        except BundleError as error:
            damaged += 1
            warn(str(error))
    if as_json:
        listed = [
            {
                "name": name,
                "id": manifest.id,
                "expected_length": manifest.expected_length,
                "bytes": sum(entry.bytes for entry in manifest.files.values()),
                "path": str(found[name]),
            }
            for name, manifest in manifests.items()
        ]
        print(json.dumps({"models": listed}, indent=2))
    else:
        for name, manifest in manifests.items():
            row = (name, manifest.id, manifest.expected_length, _megabytes(manifest), found[name])
            print("\t".join(escaped(str(cell)) for cell in row))
    if damaged:
        raise UserError(f"{damaged} bundles cannot be read (named above): fetch them again, or remove them")


@models.command()
def show(model: Named = None, as_json: AsJson = False) -> None:
    """Show a bundle's manifest and the accuracy in it. Its files are not checked: `virnucpro models verify` does that.

    Example: `virnucpro models show nano --json | jq .validation`
    """
    from virnucpro_core.bundle.bundle import read_manifest

    path = _find(model)
    manifest, sha256 = read_manifest(path)
    if as_json:
        print(json.dumps(json.loads(manifest.to_json()) | {"sha256": sha256, "path": str(path)}, indent=2))
        return
    protein, dna = manifest.esm2, manifest.dnabert_s
    _rows(
        {
            "model": manifest.id,
            "": manifest.description,
            "folder": path,
            "sha256": f"{sha256} (of manifest.json)",
            "chunk": f"{manifest.expected_length} bases",
            "ESM-2": f"{protein.layers} layers, {protein.dim} dimensions, {protein.heads} heads",
            "DNABERT-S": f"{dna.layers} layers, {dna.dim} dimensions, {dna.heads} heads, {dna.vocab} tokens",
            "classifier": f"{manifest.feature_dim} features, {manifest.head.hidden} hidden",
            "licence": manifest.licence,
            "probability": _probability(manifest),
            **{
                f"file {entry.name}": f"{entry.bytes:,} bytes, sha256 {entry.sha256[:16]}..."
                for entry in manifest.files.values()
            },
            **{f"validation {name}": value for name, value in validation_rows(manifest.validation).items()},
        }
    )


@models.command("path")
def path_(model: Annotated[str, typer.Argument(metavar="MODEL", help="Name or folder of a bundle.")]) -> None:
    """Print the folder of a bundle.

    Example: `ls $(virnucpro models path nano)`
    """
    print(_find(model))


@models.command()
def verify(
    model: Named = None,
    device: Device = None,
    precision: Precision = None,
    as_json: AsJson = False,
) -> None:
    """Check a bundle: the sha256 of every file, loading, the self-test; published weights against the original.

    With the published models the features, scores and verdicts of eight frames are compared with what the
    original VirNucPro computed. The exit code is 0 if everything is as it should be.

    Example: `virnucpro models verify bundles/virnucpro-500`
    """
    from consumer.cli.error_messages import UserError
    from consumer.cli.files.verification import verification

    found = verification(model_settings(model, device, precision))
    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
    else:
        _rows(found.rows())
        for line in found.frame_lines():
            print(escaped(line))
    if not found.agrees:
        raise UserError(
            "the model does not give the original VirNucPro's numbers: if these are the published weights, fetch "
            "and import them again; if they are your own, this is to be expected"
        )


def _probability(manifest: Manifest) -> str:
    found = manifest.calibration
    if found is None:
        return "none: this bundle has no calibration (virnucpro calibrate fits one)"
    errors = [f"{figures['ece']:.3f} ({name})" for name, figures in found.about.get("by_length", {}).items()]
    return f"calibrated; cross-validated calibration error {', '.join(errors) or 'not stated'}"


def _find(model: str | None) -> Path:
    from virnucpro_core.bundle.bundle import find_bundle

    return find_bundle(model or model_settings().model)


def _rows(rows: dict[str, Any]) -> None:
    width = max(map(len, rows))
    for name, value in rows.items():
        print(escaped(f"{name:{width}}  {value}"))


def _megabytes(manifest: Manifest) -> str:
    return f"{sum(entry.bytes for entry in manifest.files.values()) / 1e6:,.1f} MB"
