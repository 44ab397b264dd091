"""The numbers of the contig rule as options, their defaults those of the rule."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from virnucpro_core.scoring.contig_rule import ContigRule

RULE_PANEL = "Contig rule"
"""Heading of these options in a command's help."""
DEFAULT_RULE = ContigRule()


def _share(metavar: str, text: str) -> Any:
    """An option that takes a number from 0 to 1."""
    return typer.Option(min=0.0, max=1.0, metavar=metavar, help=text, rich_help_panel=RULE_PANEL)


MinWeightedDelta = Annotated[float, _share("D", "Viral above it, Non-viral below its negative.")]
HighConfidenceDelta = Annotated[float, _share("D", "High confidence above it, else moderate.")]
MinConfidentScore = Annotated[float, _share("S", "A confident chunk has one score above it ...")]
MaxOpposingScore = Annotated[float, _share("S", "... and the other below this.")]
MinAmbiguousScore = Annotated[float, _share("S", "An ambiguous chunk has both scores above it.")]
MinViralProportion = Annotated[
    float, _share("P", "Share of confident viral chunks for more than low confidence.")
]
MinNonviralProportion = Annotated[float, _share("P", "The same for Non-viral.")]
MinChunks = Annotated[
    int,
    typer.Option(
        min=1, metavar="N", help="A record of fewer chunks is one tier lower.", rich_help_panel=RULE_PANEL
    ),
]
