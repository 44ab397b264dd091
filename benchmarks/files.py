"""Memory, first output, reading and preparation of a file of many short records, on a CPU.

    python -m benchmarks.files [--records 40000] [--seconds 60] [--former COMMIT] [--report FILE]
    python -m benchmarks.files --scaling cuda:0,cuda:1 [--model FOLDER] [--records 40000] [--report FILE]

* `predict` reads a FASTA of random records of 500 bases (40,000 of them have 20 MB) from a file and prints its table to
  a pipe: seconds until the first row, and the peak of resident memory until `--seconds` have passed, when it is ended,
  or until all is scored; beside it the peak of a process that imports torch and does nothing.
* The same records as FASTA.gz are read, without being scored; with `--former` by that commit of this repository too, in
  turns.
* Records are prepared (cut, translated, tokenised) on one thread, and scored with nano on `--threads`.

With `--scaling cuda:0,cuda:1 [--model FOLDER]` it does none of that: `predict` scores the records on the first of these
devices, then on all of them, and the bytes of both tables are compared.

Medians of three rounds. On processors that do other work too, the processor's seconds say most.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.records import READ, reads
from consumer.config.settings import load_model_settings
from consumer.scoring.loading import load_engine
from virnucpro_core.models.device import use_threads
from virnucpro_core.scoring.model import preparer
from virnucpro_core.scoring.packing import batches
from virnucpro_core.sequence.fasta import read_sequences

ROUNDS = 3
PREPARED = 600
"""Records of which the preparation and the scoring are timed."""
ROOT = Path(__file__).parents[1]
_READ = (
    "import sys, time; from virnucpro_core.sequence.fasta import read_sequences; "
    "begun = time.process_time(); letters = sum(len(record[2]) for record in read_sequences(sys.argv[1])); "
    "print(time.process_time() - begun, letters)"
)


_TORCH = (
    "import torch; status = open('/proc/self/status').read(); print(status.split('VmHWM:')[1].split()[0])"
)


def write_records(path: Path, records: int) -> None:
    """As many reads as a FASTA file."""
    with path.open("w", encoding="ascii") as file:
        for record_id, letters in reads(records):
            file.write(f">{record_id}\n{letters}\n")


def predicted(path: Path, seconds: float, threads: int) -> dict[str, float]:
    """Run `predict` for some seconds: MB of resident memory at its peak, seconds until the first row."""
    command = [sys.executable, "-m", "consumer.cli.app", "predict", str(path), "--device", "cpu", "--quiet"]
    begun = time.monotonic()
    with subprocess.Popen(
        [*command, "--threads", str(threads)],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        stop = threading.Timer(seconds, child.terminate)
        stop.start()
        rows, first_row_s, peak_kb = 0, float("nan"), 0
        for row in child.stdout:
            if rows == 1:  # under the header
                first_row_s = time.monotonic() - begun
            rows += 1
            if rows % 100 == 2 and row.endswith("\n"):
                peak_kb = max(peak_kb, _peak_kb(child.pid))
        stop.cancel()
    torch_kb = subprocess.run([sys.executable, "-c", _TORCH], check=True, stdout=subprocess.PIPE, text=True)
    return {
        "peak_mb": round(peak_kb / 1000),
        "torch_mb": round(int(torch_kb.stdout) / 1000),
        "first_row_s": round(first_row_s, 1),
        "records": max(rows - 1, 0),
    }


def _peak_kb(process: int) -> int:
    """The peak of a process's resident memory; 0 if it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def read_s(path: Path, source: Path) -> float:
    """Seconds of the processor that reading takes the code in a folder."""
    found = subprocess.run(
        [sys.executable, "-c", _READ, str(path)], cwd=source, check=True, stdout=subprocess.PIPE, text=True
    )
    seconds, _ = found.stdout.split()
    return float(seconds)


def reading(path: Path, former: str | None, folder: Path) -> dict[str, float]:
    """Seconds of the processor to read a file, by this code and by a former commit's, in turns."""
    sources = {"now_s": ROOT}
    if former:
        sources["former_s"] = folder / "former"
        sources["former_s"].mkdir()
        archive = subprocess.run(
            ["git", "archive", former, "virnucpro_core"], cwd=ROOT, check=True, stdout=subprocess.PIPE
        )
        subprocess.run(["tar", "-x"], cwd=sources["former_s"], input=archive.stdout, check=True)
    found: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(ROUNDS):
        for name, source in sources.items():
            found[name].append(read_s(path, source))
    medians = {name: round(statistics.median(times), 3) for name, times in found.items()}
    if former:
        medians["times_as_fast"] = round(medians["former_s"] / medians["now_s"], 2)
    return medians


def preparation(path: Path, threads: int) -> dict[str, float]:
    """Wall and processor seconds to prepare records on one thread, and to score their frames."""
    use_threads(threads)
    engine = load_engine(load_model_settings(os.environ, model="nano", device="cpu"))
    prepare = preparer(engine)
    records = [record for _, record in zip(range(PREPARED), read_sequences(str(path)), strict=False)]
    prepared = [prepare(record_id, letters) for record_id, _, letters in records]
    frames = [frame for record in prepared for frame in record.frames]

    def prepare_all() -> None:
        for record_id, _, letters in records:
            prepare(record_id, letters)

    def score_all() -> None:
        for batch in batches(frames, engine.default_token_budget):
            engine.score(batch)

    score_all()  # the first batches make what later ones use again
    prepare_wall, prepare_cpu = _timed(prepare_all)
    score_wall, score_cpu = _timed(score_all)
    return {
        "records": len(records),
        "frames": len(frames),
        "prepare_s": round(prepare_wall, 3),
        "prepare_cpu_s": round(prepare_cpu, 3),
        "score_s": round(score_wall, 3),
        "score_cpu_s": round(score_cpu, 3),
        "times_as_fast_by_cpu": round(score_cpu / threads / prepare_cpu, 1),
    }


def scaling(path: Path, names: str, model: str, folder: Path) -> dict[str, Any]:
    """What `predict` says of a run on the first device, and on all of them; how many times as fast that is.

    Raises:
        ValueError: the tables differ.
    """
    found: dict[str, Any] = {"model": model}
    first = names.split(",")[0]
    for label, options in (("one", ["--device", first]), ("all", ["--devices", names])):
        table, summary = folder / f"{label}.tsv", folder / f"{label}.json"
        command = [sys.executable, "-m", "consumer.cli.app", "predict", str(path), "--model", model, *options]
        outputs = ["--output", str(table), "--summary", str(summary), "--quiet"]
        subprocess.run([*command, *outputs], cwd=ROOT, check=True)
        said = json.loads(summary.read_text(encoding="utf-8"))
        found[label] = {"seconds": said["seconds"], "devices": said["devices"], "model": said["model"]}
    if (folder / "one.tsv").read_bytes() != (folder / "all.tsv").read_bytes():
        raise ValueError("the two tables differ")
    seconds = [found[label]["seconds"]["scoring"] for label in ("one", "all")]
    return found | {"times_as_fast": round(seconds[0] / seconds[1], 2), "same_bytes": True}


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    """Medians of wall and processor seconds."""
    walls, cpus = [], []
    for _ in range(ROUNDS):
        begun, cpu_begun = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - begun)
        cpus.append(time.process_time() - cpu_begun)
    return statistics.median(walls), statistics.median(cpus)


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--records", type=int, default=40_000)
    arguments.add_argument("--seconds", type=float, default=60)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--former", metavar="COMMIT")
    arguments.add_argument("--scaling", metavar="DEVICES")
    arguments.add_argument("--model", default="nano")
    arguments.add_argument("--report", type=Path)
    chosen = arguments.parse_args()
    found: dict[str, Any] = {"records": chosen.records, "bases": READ, "threads": chosen.threads}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        path = folder / "reads.fasta"
        write_records(path, chosen.records)
        found["megabytes"] = round(path.stat().st_size / 1e6, 1)
        if chosen.scaling:
            found["scaling"] = scaling(path, chosen.scaling, chosen.model, folder)
        else:
            packed = folder / "reads.fasta.gz"
            packed.write_bytes(gzip.compress(path.read_bytes(), 6))
            found["former"] = chosen.former
            found["reading_gz"] = reading(packed, chosen.former, folder)
            found["preparation"] = preparation(path, chosen.threads)
            found["predict"] = predicted(path, chosen.seconds, chosen.threads)
    text = json.dumps(found, indent=1)
    print(text)
    if chosen.report:
        chosen.report.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
