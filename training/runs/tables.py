"""Makes the tables of chunks that the models of cross-validation and of everything are trained on and judged by.

    python -m training.runs.tables --data DATA --out OUT --length 300

Those commands make them too, if they are not there.
"""

from __future__ import annotations

import sys

from training.runs.pretrain import LENGTH
from training.runs.side_by_side import Training, make_tables
from training.runs.workspace import EVERYTHING, fold_phase, options, workspace


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = options(__doc__)
    parser.add_argument("--length", type=int, default=LENGTH, help="bases of a chunk")
    given = parser.parse_args(arguments)
    folds = workspace(given, EVERYTHING).folds.count
    phases = [EVERYTHING, *(fold_phase(number) for number in range(1, folds + 1))]
    make_tables([Training("", given, phase) for phase in phases], given.length)
    return 0


if __name__ == "__main__":
    sys.exit(main())
