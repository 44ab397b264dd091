"""What `--summary` holds: what was read and written, by what, with which settings, and how long it took."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from consumer.cli.files.outputs import Calls, Outputs
from consumer.cli.files.probabilities import Probabilities
from consumer.cli.files.scoring import Run
from consumer.config.settings import ModelSettings
from virnucpro_core import __version__
from virnucpro_core.scoring.contig_rule import ContigRule
from virnucpro_core.sequence.fasta import STDIN


@dataclass(frozen=True, slots=True)
class Summary:
    """The parts of one run that are summed up.

    Attributes:
        fasta: the input.
        loading_s: seconds that checking the input and loading the model took.
    """

    fasta: str
    settings: ModelSettings
    rule: ContigRule
    run: Run
    outputs: Outputs
    probabilities: Probabilities
    loading_s: float

    def __call__(self, calls: Calls) -> dict[str, Any]:
        """All of it, for JSON, when every record was scored or left out."""
        run, tally = self.run, self.run.tally
        repeated, records_of_repeated = tally.repeated_ids()
        return {
            "software_version": __version__,
            "input": {
                "name": "standard input" if self.fasta == STDIN else Path(self.fasta).name,
                "records": tally.read,
                "bases": tally.bases_read,
                "repeated_ids": repeated,
                "records_of_repeated_ids": records_of_repeated,
            },
            "counts": {
                "scored": tally.scored - tally.verdicts["no_open_frame"],
                "without_score": tally.refused + tally.verdicts["no_open_frame"],
                "verdicts": {name: tally.verdicts[name] for name in ("virus", "others", "no_open_frame")},
                "calls": {name: calls.calls[name] for name in ("Viral", "Non-viral", "Ambiguous")},
                "tiers": dict(sorted(calls.tiers.items())),
                "left_out": dict(sorted(tally.left_out.items())),
                "frame_cache_hits": run.reused,
            },
            "probability": self.probabilities.as_dict(),
            "model": self.run.info.as_dict(),
            "settings": {
                "contig_rule": asdict(self.rule),
                "keep_u": self.settings.keep_u,
                "token_budget": run.token_budget,
                "frame_cache": self.settings.frame_cache if self.run.info.is_batch_invariant else 0,
                "virus_by": self.outputs.virus_by,
                "max_gap": self.outputs.max_gap,
            },
            "devices": [use.as_dict() for use in run.uses],
            "outputs": self._names(),
            "seconds": {"loading": round(self.loading_s, 3), "scoring": round(run.seconds, 3)},
        }

    def _names(self) -> dict[str, dict[str, str]]:
        target = self.outputs.target
        main = {
            "format": self.outputs.form,
            "name": str(target) if isinstance(target, Path) else "standard output",
        }
        return {"--output": main} | {
            option: {"name": str(path)} for option, path in self.outputs.others.items()
        }
