"""The counts of a run as MultiQC reads them: its custom content, a row a sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_ENDINGS = {".gz", ".bz2", ".xz", ".zst", ".fa", ".fasta", ".fna", ".fq", ".fastq", ".bam"}
_COLUMNS = {
    "records": ("Records", "Records in the input"),
    "scored": ("Scored", "Records with an open frame, which have a score"),
    "virus": ("Virus", "By VirNucPro's verdict"),
    "viral_call": ("Viral", "By the call of the contig rule"),
    "ambiguous_call": ("Ambiguous", "Neither call by the contig rule"),
    "left_out": ("Left out", "Records that could not be scored"),
}
"""Title and description of each column."""


def multiqc(summary: dict[str, Any]) -> dict[str, Any]:
    """Custom content of MultiQC for one sample, whose name is that of the input without its endings.

    MultiQC puts the files of all samples into one table, since they have one id.

    Args:
        summary: of `consumer.cli.files.summary.Summary`.
    """
    counts = summary["counts"]
    row = {
        "records": summary["input"]["records"],
        "scored": counts["scored"],
        "virus": counts["verdicts"]["virus"],
        "viral_call": counts["calls"]["Viral"],
        "ambiguous_call": counts["calls"]["Ambiguous"],
        "left_out": sum(counts["left_out"].values()),
    }
    return {
        "id": "virnucpro",
        "section_name": "VirNucPro",
        "description": f"Viral sequences, by virnucpro-stream {summary['software_version']} with the model "
        f"{summary['model']['model_id']}.",
        "plot_type": "table",
        "pconfig": {"id": "virnucpro_table", "title": "VirNucPro: records", "namespace": "VirNucPro"},
        "headers": {
            name: {"title": title, "description": text, "format": "{:,.0f}"}
            for name, (title, text) in _COLUMNS.items()
        },
        "data": {_sample(summary["input"]["name"]): row},
    }


def _sample(name: str) -> str:
    path = Path(name)
    while path.suffix.lower() in _ENDINGS and path.stem:
        path = path.with_suffix("")
    return path.name
