"""The running service does not stop for garbage collection of what it has loaded."""

from __future__ import annotations

import re

from tests.support.harness import Child, NoopServe, serving

AT_THE_END = """
import atexit, gc, sys
atexit.register(lambda: print(f"left out: {gc.get_freeze_count()}", file=sys.stderr))
from tests.support.noop_service import main
sys.exit(main())
"""


class Reporting(NoopServe):
    """Says at its end how many objects no collection looks at."""

    command = (Child.command[0], "-c", AT_THE_END)


def test_what_is_loaded_is_left_out_of_collections(tmp_path):
    with serving(tmp_path / "serve.log", kind=Reporting) as serve:
        assert serve.stop() == 0
        log = serve.log.read_text()
    found = re.search(r"^left out: (\d+)$", log, re.MULTILINE)
    assert found is not None, log
    assert int(found[1]) > 50_000
