"""A real Prometheus that scrapes services of a test and evaluates the rules, with time sped up."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from tests.deploy.tools import ROOT, needed
from tests.support.harness import wait_until

FASTER = 30
"""A minute of the rules is two seconds of the test."""
_UNITS = {"s": 1, "m": 60, "h": 3600}


def faster(rules: str) -> str:
    """Rules whose durations are divided by `FASTER`: in ranges, and of `for`."""

    def shorter(match: re.Match[str]) -> str:
        seconds = int(match[2]) * _UNITS[match[3]] // FASTER
        return f"{match[1]}{max(seconds, 2)}s{match[4]}"

    return re.sub(r"(\[|for: )(\d+)([smh])(\]|$)", shorter, rules, flags=re.M)


@dataclass(frozen=True)
class Series:
    """Labels, and (seconds, value) of each step."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]


class Prometheus:
    """Runs within the `with` block.

    Args:
        folder: for its data and log.
        targets: job -> instance -> host:port.
        rules: the text of the rules.
    """

    def __init__(self, folder: Path, targets: Mapping[str, Mapping[str, str]], rules: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._address = f"127.0.0.1:{free.getsockname()[1]}"
        self._folder = folder
        folder.mkdir()
        (folder / "rules.yaml").write_text(rules)
        jobs = [
            {
                "job_name": job,
                "static_configs": [
                    {"targets": [target], "labels": {"instance": instance, "namespace": "test"}}
                    for instance, target in instances.items()
                ],
            }
            for job, instances in targets.items()
        ]
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": jobs,
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))

    def __enter__(self) -> Prometheus:
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    needed("prometheus"),
                    f"--config.file={self._folder / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address={self._address}",
                ],
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        wait_until(self._is_up, f"Prometheus is up, see {self._folder / 'log'}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(30)
        shutil.rmtree(self._folder / "data", ignore_errors=True)

    def query(self, promql: str) -> dict[str, float]:
        """The value by job; what has none is under an empty name."""
        return {series["metric"].get("job", ""): float(series["value"][1]) for series in self._query(promql)}

    def values(self, promql: str) -> list[float]:
        """The value of each series."""
        return [float(series["value"][1]) for series in self._query(promql)]

    def series(self, promql: str, begin: float, end: float, step_s: float) -> list[Series]:
        """What a graph shows, from `begin` to `end`, in seconds since 1970-01-01 UTC."""
        asked = urllib.parse.urlencode({"query": promql, "start": begin, "end": end, "step": step_s})
        return [
            Series(each["metric"], [(float(at), float(value)) for at, value in each["values"]])
            for each in self._get(f"query_range?{asked}")["result"]
        ]

    def firing(self) -> set[tuple[str, str]]:
        """Job and name of the alerts that fire; one of no job is under an empty name."""
        labels = [each["labels"] for each in self._get("alerts")["alerts"] if each["state"] == "firing"]
        return {(each.get("job", ""), each["alertname"]) for each in labels}

    def _query(self, promql: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self._get("query?query=" + urllib.parse.quote(promql))["result"]
        return result

    def _is_up(self) -> bool:
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            return bool(self._get("rules")["groups"])
        except OSError:
            return False

    def _get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{self._address}/api/v1/{path}", timeout=10) as answer:
            data: dict[str, Any] = json.load(answer)["data"]
            return data
