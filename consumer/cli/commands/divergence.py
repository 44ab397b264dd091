"""`virnucpro divergence`: how far the packed attention lies from the v1.0-compatible one, on this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from consumer.cli.options import AsJson, Model, model_settings

if TYPE_CHECKING:
    from virnucpro_core.evaluation.divergence import Divergence
    from virnucpro_core.models.engine import Engine
    from virnucpro_core.sequence.prepare import PreparedFrame

ROWS = {
    "frames": "frames compared",
    "label_agreement": "labels equal (share)",
    "confidence_correlation": "correlation of the confidences",
    "score_difference": "largest difference of a virus score",
    "cosine_min": "cosine of the features, lowest",
    "cosine_mean": "cosine of the features, mean",
    "mean_absolute_difference": "mean absolute difference of the features",
    "within_1e3": "feature values within 1e-3 (share)",
    "within_1e2": "feature values within 1e-2 (share)",
}
ADVICE = {
    "accept": "accept: over 99% of the labels are equal",
    "validate": "validate on your own data: 95 to 99% of the labels are equal",
    "use v1": "use v1 (VIRNUCPRO_V1_ATTENTION=1): fewer than 95% of the labels are equal",
}


def divergence(
    fasta: Annotated[
        str | None,
        typer.Option("--fasta", metavar="FILE", help="Compare on this FASTA, FASTQ or BAM file too."),
    ] = None,
    model: Model = None,
    as_json: AsJson = False,
    form: Annotated[
        Literal["table", "json"], typer.Option("--format", hidden=True, help="The former spelling of --json.")
    ] = "table",
) -> None:
    """Run both attention paths over the 18 proteins of the published test, and your own file, and compare.

    The proteins are packed together, not one by one. A protein without nucleotides gets them from one fixed
    codon per amino acid, since the model's head needs both.

    Example: `virnucpro divergence --fasta reads.fasta`
    """
    from consumer.cli.files.scoring import max_bases_of
    from consumer.escaping import escaped
    from consumer.scoring.loading import load_engine
    from virnucpro_core.evaluation.divergence import frames_of_proteins, measure, published_proteins

    settings = model_settings(model)
    engine = load_engine(settings)
    packed, v1 = engine.on_path(v1=False), engine.on_path(v1=True)
    budget = settings.fixed_token_budget or engine.default_token_budget
    sets = {"published proteins": frames_of_proteins(published_proteins(), engine.tokenizer)}
    if fasta is not None:
        sets[fasta] = _frames_of(fasta, engine, max_bases_of(settings), settings.keep_u)
    found = {name: measure(packed, v1, frames, budget) for name, frames in sets.items()}
    about = _about(packed, v1)
    if as_json or form == "json":
        print(json.dumps(about | {"sets": {name: d.as_dict() for name, d in found.items()}}))
        return
    where = f"{about['model']} on {about['device']}, {about['precision']}"
    print(escaped(f"{where}: packed ({about['packed_backend']}) against v1 in {about['v1_precision']}"))
    for name, compared in found.items():
        print(f"\n{escaped(name)}")
        _show(compared)


def _about(packed: Engine, v1: Engine) -> dict[str, str]:
    info = packed.info
    return {
        "model": info.model_id,
        "device": info.device,
        "precision": info.precision,
        "packed_backend": info.attention_backend,
        "v1_precision": v1.info.precision,
    }


def _frames_of(fasta: str, engine: Engine, max_bases: int, keep_u: bool) -> list[PreparedFrame]:
    """All open frames of a file; raises UserError for a record that can't be scored, or if no frame is open."""
    from consumer.cli.error_messages import UserError
    from virnucpro_core.scoring.model import preparer
    from virnucpro_core.sequence.fasta import read_sequences
    from virnucpro_core.sequence.validation import InvalidSequence, validate

    prepare = preparer(engine, keep_u)
    frames: list[PreparedFrame] = []
    for record_id, _, sequence in read_sequences(fasta, max_bases):
        try:
            validate(record_id, sequence, max_bases)
        except InvalidSequence as error:
            raise UserError(
                f"record {record_id!r} of {fasta}: {error.detail}; correct or remove it"
            ) from error
        frames += prepare(record_id, sequence).frames
    if not frames:
        raise UserError(f"{fasta} has no open reading frame: take another file")
    return frames


def _show(found: Divergence) -> None:
    for name, meaning in ROWS.items():
        value = getattr(found, name)
        shown = f"{value}" if isinstance(value, int) else f"{value:.6g}" if value < 0.5 else f"{value:.6f}"
        print(f"  {meaning:42} {shown}")
    print(f"  {ADVICE[found.advice]}")
