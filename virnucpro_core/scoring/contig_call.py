"""The contig rule's call on the result of a record."""

from __future__ import annotations

from virnucpro_core.scoring.contig_rule import ContigCall, ContigRule
from virnucpro_core.scoring.decimals import as_printed
from virnucpro_core.scoring.results import RecordResult


def contig_call(result: RecordResult, rule: ContigRule) -> ContigCall | None:
    """The call on a record; None if it has no open frame, and so no score.

    It is made of the scores as the files print them, so that a program that reads the file of highest scores comes to
    the same call, also where a score lies on a threshold.
    """
    highest = [(chunk.others_score, chunk.virus_score) for chunk in result.chunks]
    scores = [
        (as_printed(others), as_printed(virus))
        for others, virus in highest
        if others is not None and virus is not None
    ]
    return rule.call(scores) if scores else None
