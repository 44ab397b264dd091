"""The contig rule as the program that reads VirNucPro's file of highest scores applies it: written again, from its
description alone, with the file as its only input. It shares no line with `virnucpro_core.scoring.contig_call`."""

from __future__ import annotations

import csv
import re
from pathlib import Path

COLUMNS = ["Modified_ID", "Is_Virus", "max_score_0", "max_score_1"]


def natural(text: str) -> list[tuple[int, int, str]]:
    """A key that sorts numbers by their value."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"[0-9]+|[^0-9]+", text)
    ]


def contigs_of(path: Path, **options: float) -> list[list[str]]:
    """The rows of the result, without its head, of a file of highest scores. `options` as in the description."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    if rows[0] != COLUMNS:
        raise ValueError("Missing required columns")
    contigs: dict[str, list[tuple[float, float]]] = {}
    for modified_id, _, score_0, score_1 in rows[1:]:
        contig = re.sub(r"_chunk_[0-9]+$", "", modified_id)
        contigs.setdefault(contig, []).append((float(score_0), float(score_1)))
    return [[name, *judged(contigs[name], **options)] for name in sorted(contigs, key=natural)]


def judged(
    chunks: list[tuple[float, float]],
    *,
    min_weighted_delta: float = 0.3,
    high_confidence_delta: float = 0.6,
    min_confident_score: float = 0.8,
    max_opposing_score: float = 0.3,
    min_ambiguous_score: float = 0.7,
    min_viral_proportion: float = 0.1,
    min_nonviral_proportion: float = 0.1,
    min_chunks: float = 5,
) -> list[str]:
    """The cells behind the id; chunks: (max_score_0, max_score_1) of each."""
    numerator = denominator = total = 0.0
    viral = nonviral = ambiguous = 0
    for s0, s1 in chunks:
        delta = s1 - s0
        confidence = abs(delta) ** 0.5
        numerator += delta * confidence
        denominator += confidence
        total += delta
        if s1 > min_confident_score and s0 < max_opposing_score:
            viral += 1
        if s0 > min_confident_score and s1 < max_opposing_score:
            nonviral += 1
        if s1 > min_ambiguous_score and s0 > min_ambiguous_score:
            ambiguous += 1
    weighted_delta = numerator / denominator if denominator else total / len(chunks)
    n_effective = len(chunks) - ambiguous
    viral_proportion = viral / n_effective if n_effective else 0.0
    nonviral_proportion = nonviral / n_effective if n_effective else 0.0

    if weighted_delta > min_weighted_delta:
        call, backing, share, least = "Viral", viral, viral_proportion, min_viral_proportion
    elif weighted_delta < -min_weighted_delta:
        call, backing, share, least = "Non-viral", nonviral, nonviral_proportion, min_nonviral_proportion
    else:
        call, backing, share, least = "Ambiguous", 0, 0.0, 0.0
    if call == "Ambiguous":
        tier = "review"
    elif backing >= 1 and share >= least:
        tier = "high_confidence" if abs(weighted_delta) > high_confidence_delta else "moderate_confidence"
    else:
        tier = "low_confidence"
    if len(chunks) < min_chunks and call != "Ambiguous":
        tier = "review" if tier == "low_confidence" else "low_confidence"
    counts = [str(count) for count in (len(chunks), viral, nonviral, ambiguous)]
    return [
        call,
        tier,
        str(round(weighted_delta, 3)),
        *counts,
        str(round(viral_proportion, 3)),
        str(round(nonviral_proportion, 3)),
    ]
