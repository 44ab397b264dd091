"""Options that several commands have, spelt and explained once, and the settings that they win over."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from virnucpro_core.options import (
    BACKEND_CHOICES,
    PRECISION_CHOICES,
    BackendChoice,
    PrecisionChoice,
    one_of,
)

if TYPE_CHECKING:
    from consumer.config.settings import ModelSettings

HELP_NAMES = {"help_option_names": ["-h", "--help"]}

MODEL_PANEL = "Model"
"""Heading of these options in a command's help."""

SequenceFile = Annotated[
    str, typer.Argument(metavar="FASTA", help="FASTA, FASTQ or BAM file, compressed or not; - is stdin.")
]
NamedSequenceFile = Annotated[
    str, typer.Argument(metavar="FASTA", help="FASTA, FASTQ or BAM file, compressed or not.")
]
SkipUnlabelled = Annotated[
    bool, typer.Option("--skip-unlabelled", help="Leave out records that have no label.")
]
LabelTable = Annotated[
    Path,
    typer.Option(
        "--labels",
        metavar="TSV",
        help="Table with the columns id and label (virus or others), and group if you like.",
    ),
]
NewId = Annotated[str, typer.Option("--id", metavar="NAME", help="Stamped on every prediction.")]
NewBundle = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The bundle to be made.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="Name or folder of a model bundle. [default: VIRNUCPRO_MODEL, or nano]",
        rich_help_panel=MODEL_PANEL,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="cpu, cuda, cuda:1, ... [default: VIRNUCPRO_DEVICE, or the first GPU]",
        rich_help_panel=MODEL_PANEL,
    ),
]
Precision = Annotated[
    PrecisionChoice | None,
    typer.Option(
        "--precision",
        metavar="FORMAT",
        help=f"Number format: {one_of(PRECISION_CHOICES)}. [default: VIRNUCPRO_PRECISION, or fp16 on a GPU, fp32 on "
        "a CPU]",
        rich_help_panel=MODEL_PANEL,
    ),
]
AttentionBackend = Annotated[
    BackendChoice | None,
    typer.Option(
        "--attention-backend",
        metavar="NAME",
        help=f"Attention kernels: {one_of(BACKEND_CHOICES)}. [default: VIRNUCPRO_ATTENTION_BACKEND, or the fastest]",
        rich_help_panel=MODEL_PANEL,
    ),
]
V1Attention = Annotated[
    bool,
    typer.Option(
        "--v1-attention",
        help="Use the v1.0-compatible standard attention; the same as VIRNUCPRO_V1_ATTENTION=1.",
        rich_help_panel=MODEL_PANEL,
    ),
]
KeepU = Annotated[
    bool,
    typer.Option(
        "--keep-u",
        help="Do not read U as T: drop codons with U, as VirNucPro does; the same as VIRNUCPRO_KEEP_U=1.",
        rich_help_panel=MODEL_PANEL,
    ),
]
FrameCache = Annotated[
    int | None,
    typer.Option(
        "--frame-cache",
        metavar="FRAMES",
        min=0,
        help="Frames whose scores are remembered for equal ones; 0 turns it off. [default: VIRNUCPRO_FRAME_CACHE, or "
        "100000]",
        rich_help_panel=MODEL_PANEL,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of lines for people.")]

Bootstrap = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Kafka broker. [default: VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS]"),
]
FirstAnswer = Annotated[
    float,
    typer.Option("--timeout", min=0.1, metavar="S", help="Seconds to wait for the broker's first answer."),
]


class ChunkSize(StrEnum):
    """The chunk sizes, in bases, that there are published models for."""

    LONG = "500"
    SHORT = "300"


def given(**options: Any) -> dict[str, Any]:
    """The options that were on the command line, by the fields of the settings that they win over.

    An option that was left out is None, or False where it is a switch: then the variable decides.
    """
    return {name: value for name, value in options.items() if value is not None and value is not False}


def model_settings(
    model: str | None = None,
    device: str | None = None,
    precision: str | None = None,
    attention_backend: str | None = None,
    v1_attention: bool = False,
    keep_u: bool = False,
    frame_cache: int | None = None,
) -> ModelSettings:
    """The settings of the environment that a command for files needs, the options winning over them.

    Raises:
        SettingsError: one line for each problem.
    """
    from consumer.config.settings import load_model_settings

    overrides = given(
        model=model,
        device=device,
        precision=precision,
        attention_backend=attention_backend,
        v1_attention=v1_attention,
        keep_u=keep_u,
        frame_cache=frame_cache,
    )
    return load_model_settings(os.environ, **overrides)


def command_group(text: str) -> typer.Typer:
    """Commands under one name, such as `virnucpro models`; without one of them the help is shown.

    Args:
        text: what the help says of the group.
    """
    return typer.Typer(
        no_args_is_help=True, rich_markup_mode="markdown", context_settings=HELP_NAMES, help=text
    )
