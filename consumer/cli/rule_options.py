"""The numbers of the contig rule as options, their defaults those of the rule."""

from __future__ import annotations

from typing import Annotated

import typer

from virnucpro_core.scoring.contig_call import ContigRule

RULE_PANEL = "Contig rule"
"""Heading of these options in a command's help."""
DEFAULT_RULE = ContigRule()

MinWeightedDelta = Annotated[
    float,
    typer.Option(
        min=0.0, max=1.0, help="Viral above it, Non-viral below its negative.", rich_help_panel=RULE_PANEL
    ),
]
HighConfidenceDelta = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="High confidence above it.", rich_help_panel=RULE_PANEL)
]
MinConfidentScore = Annotated[
    float,
    typer.Option(
        min=0.0, max=1.0, help="A confident chunk has a score above it ...", rich_help_panel=RULE_PANEL
    ),
]
MaxOpposingScore = Annotated[
    float,
    typer.Option(min=0.0, max=1.0, help="... and the other below this.", rich_help_panel=RULE_PANEL),
]
MinAmbiguousScore = Annotated[
    float,
    typer.Option(
        min=0.0, max=1.0, help="An ambiguous chunk has both scores above it.", rich_help_panel=RULE_PANEL
    ),
]
MinViralProportion = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Confident viral chunks for more than low confidence, as a share.",
        rich_help_panel=RULE_PANEL,
    ),
]
MinNonviralProportion = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="The same for Non-viral.", rich_help_panel=RULE_PANEL)
]
MinChunks = Annotated[
    int,
    typer.Option(min=1, help="A record of fewer chunks is one tier lower.", rich_help_panel=RULE_PANEL),
]
