"""Everything from the prepared data to the bundles, in one command; see training/runs/everything.py.

python -m training.run --data DATA --out OUT
"""

import sys

if __name__ == "__main__":
    # The processes that prepare frames import this file, and should not wait for torch: hence two files.
    from training.runs.everything import main

    sys.exit(main())
