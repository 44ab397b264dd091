"""The options of `predict` about the probability of a record, and what becomes of them in a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from consumer.cli.error_messages import UserError, detail
from consumer.errors import ExitCode
from virnucpro_core.bundle.bundle import find_bundle, read_manifest
from virnucpro_core.scoring.calibration import EVEN, Probability
from virnucpro_core.scoring.model import EngineInfo
from virnucpro_core.scoring.selection import Selection


@dataclass(frozen=True, slots=True)
class Asked:
    """The options as given; None where one was left out.

    Attributes:
        prior: `--prior`, the share of viral records in the sample.
        least: `--min-probability`.
        max_fdr: `--max-fdr`.
    """

    prior: float | None = None
    least: float | None = None
    max_fdr: float | None = None

    @property
    def selects(self) -> bool:
        """Whether only some of the records are written."""
        return self.least is not None or self.max_fdr is not None

    def check(self, model: str) -> None:
        """Refuse before the model is loaded what needs a calibration, where its bundle has none.

        Raises:
            UserError: with the cause and the cure; also for a prior of 0 or 1.
            BundleError: the model's manifest cannot be read.
        """
        options = {"--prior": self.prior, "--min-probability": self.least, "--max-fdr": self.max_fdr}
        given = [option for option, value in options.items() if value is not None]
        if not given:
            return
        if self.prior in (0.0, 1.0):
            raise UserError(
                f"--prior {self.prior:g} says that every record is known already: name a share above 0 and below 1",
                ExitCode.USAGE,
            )
        path = find_bundle(model)
        manifest, _ = read_manifest(path)
        if manifest.calibration is None:
            raise UserError(
                f"{given[0]} needs probabilities, and the model {manifest.id} has no calibration: fit one on labelled "
                f"records with virnucpro calibrate, or leave {given[0]} out",
                ExitCode.USAGE,
            )


class Probabilities:
    """The probabilities of one run.

    Attributes:
        of: of a record; None if the model has no calibration.
        selection: of the records that are written; None if all are.
    """

    def __init__(self, asked: Asked, info: EngineInfo) -> None:
        self._asked = asked
        self.of: Probability | None = None
        self.selection: Selection | None = None
        if info.calibration is None:
            detail(f"no probabilities: the model {info.model_id} has no calibration")
            return
        self.of = info.calibration.at_prior(EVEN if asked.prior is None else asked.prior)
        if asked.selects:
            self.selection = Selection(self.of, asked.least or 0.0, asked.max_fdr)

    def as_dict(self) -> dict[str, Any] | None:
        """For the summary, when all records were added; None without a calibration."""
        if self.of is None:
            return None
        asked, selection = self._asked, self.selection
        return {
            "prior": EVEN if asked.prior is None else asked.prior,
            "min_probability": asked.least,
            "max_fdr": asked.max_fdr,
            "selected": selection.count if selection else None,
            "expected_fdr": selection.expected_fdr if selection else None,
            "least_selected": selection.threshold if selection else None,
        }
