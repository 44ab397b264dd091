"""What the commands that score a file share: their options for the model, scoring and counting."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from consumer.cli.commands.serve import V1_HELP

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from consumer.cli.files.inputs import Record, Size
    from consumer.config.settings import Settings
    from virnucpro_core.models.engine import Engine
    from virnucpro_core.scoring.results import RecordResult
    from virnucpro_core.sequence.validation import InvalidSequence

SequenceFile = Annotated[
    str, typer.Argument(metavar="FASTA", help="FASTA or FASTQ file, compressed or not; - is stdin.")
]
Model = Annotated[
    str | None,
    typer.Option("--model", help="Name or folder of a model bundle. [default: VIRNUCPRO_MODEL, or nano]"),
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda, cuda:1, ... [default: VIRNUCPRO_DEVICE, or the first GPU]"),
]
Precision = Annotated[
    Literal["auto", "fp32", "fp16", "bf16"] | None,
    typer.Option(
        "--precision", help="Number format. [default: VIRNUCPRO_PRECISION, or fp16 on a GPU, fp32 on a CPU]"
    ),
]
AttentionBackend = Annotated[
    Literal["auto", "flash_attn", "varlen", "sdpa"] | None,
    typer.Option(
        "--attention-backend",
        help="Attention kernels. [default: VIRNUCPRO_ATTENTION_BACKEND, or the fastest]",
    ),
]
V1Attention = Annotated[bool, typer.Option("--v1-attention", help=V1_HELP)]


def settings_of(
    model: str | None,
    device: str | None = None,
    precision: str | None = None,
    attention_backend: str | None = None,
    v1_attention: bool = False,
) -> Settings:
    """The settings of the environment, the options of the command line winning over them.

    Raises:
        SettingsError: one line for each problem.
    """
    from consumer.config.settings import load_settings

    if v1_attention:
        os.environ["VIRNUCPRO_V1_ATTENTION"] = "true"
    chosen: dict[str, Any] = {
        "model": model,
        "device": device,
        "precision": precision,
        "attention_backend": attention_backend,
    }
    return load_settings(os.environ, **{name: value for name, value in chosen.items() if value is not None})


class Run:
    """Scores the records of one file with a progress bar, and counts.

    Attributes:
        scored, bases, viral: records that were scored, their bases, and those whose verdict is virus.
        refused: records that can't be scored; each was named on stderr.
    """

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine, self._max_bases = engine, settings.max_sequence_bases
        self._token_budget = settings.token_budget or engine.default_token_budget
        self._began_at = time.monotonic()
        self.scored = self.viral = self.bases = self.refused = 0

    def results(self, records: Iterable[Record], size: Size | None) -> Iterator[RecordResult]:
        """The results in the order of the records; `size` is what the progress bar is told, None if unknown."""
        from consumer.cli.files.inputs import meter
        from virnucpro_core.scoring.stream import score_records

        with meter("scoring", size) as done:
            for result in score_records(
                records, self._engine, self._token_budget, self._max_bases, self._refuse
            ):
                self.scored += 1
                self.bases += result.length
                self.viral += result.verdict == "virus"
                done.add(result.length)
                yield result

    def with_what(self) -> str:
        """The end of the line that tells what was done: the model, where it ran, and how long it took."""
        info, seconds = self._engine.info, time.monotonic() - self._began_at
        return f"with the model {info.model_id} on {info.device} ({info.precision}) in {seconds:.1f} s"

    def complain(self) -> None:
        """Raise UserError if records were left out, for the exit code."""
        from consumer.cli.error_messages import UserError

        if self.refused:
            raise UserError(f"{self.refused} records were left out (named above); correct or remove them")

    def _refuse(self, record_id: str, error: InvalidSequence) -> None:
        from consumer.cli.error_messages import warn

        self.refused += 1
        cure = "; VIRNUCPRO_MAX_SEQUENCE_BASES raises it" if error.kind == "sequence_too_long" else ""
        warn(f"record {record_id!r} is left out: {error.detail}{cure}")
