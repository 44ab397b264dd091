"""One worker's process: the service with the no-op model, in bounded memory.

On SIGUSR1 it writes to its log where its threads are.

The signal is answered in C, so also by a process that is stuck in a call of the Kafka client. It dies with the run,
however that ends.
"""

from __future__ import annotations

import ctypes
import faulthandler
import signal
import sys

from tests.support import memory_limit

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    memory_limit.enter()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    # Only now, so that what is imported counts towards the limit.
    from tests.support import noop_service

    sys.exit(noop_service.main())
