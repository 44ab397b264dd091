"""Asks the service in this container for its health; the exit code is 0 when it answers 200.

    python -IS probe.py livez
    python -IS probe.py readyz

For supervisors that run a command (Docker, Compose): the image has no curl. Where a supervisor can ask by HTTP
itself (Kubernetes), let it.
"""

from __future__ import annotations

import os
import sys
from http.client import HTTPConnection, HTTPException

TIMEOUT_S = 3.0
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def ask(page: str) -> tuple[int, str]:
    """Status and text of one page of the service; the address is that of its settings."""
    host = os.environ.get("VIRNUCPRO_HTTP_HOST", "0.0.0.0")
    port = int(os.environ.get("VIRNUCPRO_HTTP_PORT", "8080"))
    connection = HTTPConnection(EVERYWHERE.get(host, host), port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", f"/{page}")
        answer = connection.getresponse()
        return answer.status, answer.read(1000).decode(errors="replace").strip()
    finally:
        connection.close()


def main() -> int:
    try:
        status, text = ask(sys.argv[1])
    except (OSError, HTTPException) as error:
        status, text = 0, f"no answer: {error}"
    print(text)  # `docker inspect` shows it
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
