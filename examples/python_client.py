"""Publishes the records of a FASTA file and prints what the service says of each.

python examples/python_client.py localhost:9092 reads.fasta
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from schemas import DeadLetter
from virnucpro_client import Client, ClientError


def fasta(path: Path) -> Iterator[tuple[str, str]]:
    """The id and the sequence of each record."""
    for record in path.read_text(encoding="utf-8").split(">")[1:]:
        header, _, lines = record.partition("\n")
        yield header.split()[0], "".join(lines.split())


def main(bootstrap_servers: str, path: str, timeout_s: float = 600.0) -> int:
    """Returns the exit code: 0 if every record has a prediction or a dead letter."""
    try:
        with Client(bootstrap_servers) as client:
            run = client.publish(fasta(Path(path)))
            for answer in client.answers(run, timeout_s):
                if isinstance(answer.content, DeadLetter):
                    print(answer.id, "refused:", answer.content.reason, answer.content.detail, sep="\t")
                else:
                    print(answer.id, answer.content.verdict, answer.content.virus_score, sep="\t")
    except (ClientError, OSError) as error:  # the broker, or the file
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2]))
