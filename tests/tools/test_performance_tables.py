"""docs/performance.md: what its tables and pictures say of results, also of those that are not there."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.kernel_times import shares
from benchmarks.pictures import pictures
from benchmarks.tables import TABLES, measured_on, table

ROOT = Path(__file__).parents[2]
ABOUT = {
    "commit": "abc",
    "date": "2026-01-01",
    "processor": "P",
    "cores": 2,
    "load_average": 0.5,
    "gpu": None,
    "versions": {"torch": "2.15.0", "triton": None},
}


def kept(folder: Path, name: str, **content: object) -> Path:
    (folder / f"{name}.json").write_text(json.dumps({"about": ABOUT} | content))
    return folder


@pytest.mark.parametrize("name", TABLES)
def test_a_result_that_is_not_there_is_named_with_its_command(tmp_path, name):
    (line,) = table(name, tmp_path)
    command, on_gpu = TABLES[name][0].removesuffix("-gpu"), TABLES[name][0].endswith("-gpu")
    assert line == f"Not run yet: `make bench-{command}`{' on a GPU' if on_gpu else ''}."
    assert f"\nbench-{command}: " in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize(
    ("name", "source", "command"),
    [
        ("against-loops", "e2e", "`make bench-e2e`"),
        ("against-loops-gpu", "e2e-gpu", "`make bench-e2e` on a GPU"),
    ],
)
def test_a_table_that_a_result_has_nothing_for_is_named_with_its_command(tmp_path, name, source, command):
    kept(tmp_path, source, cases=[], loops=[])
    assert list(table(name, tmp_path)) == [f"Not run: {command} did not get there."]


def test_what_could_not_run_is_listed_with_the_reason_wherever_it_stands(tmp_path):
    inner = [{"shape": "3B", "not run": {"FAESM bf16": "No module named 'faesm'"}}]
    kept(tmp_path, "gpu", shapes=inner, **{"not run": {"fp8": "needs a newer GPU"}})
    sentence, _, missing = measured_on("gpu", tmp_path)
    assert sentence == "Commit abc, 2026-01-01; 2 cores of P, load average 0.5 before; torch 2.15.0."
    assert missing == "Not run: fp8 (needs a newer GPU); FAESM bf16 (No module named 'faesm')."


def test_a_rate_is_compared_with_the_engine_alone_and_with_the_service(tmp_path):
    def rate(value: float) -> dict[str, float]:
        return {"median": value, "lowest": value - 1, "highest": value + 1}

    streams = {
        "records_per_s": {"engine alone": rate(1000), "service": rate(900), "plain loop": rate(450)},
        "cpu_us_a_record": {"service": rate(2000), "plain loop": rate(4000)},
        "engine_cpu_us": rate(1600),
        "broker_cpu_us": rate(400),
    }
    around = {"cpu_us": rate(100), "records_per_s": rate(5000)}
    rates = {"fp32": rate(1000), "bf16": rate(1800)}
    precisions = {"records_per_s": rates, "equal": 0.999, "frames": 116}
    kept(tmp_path, "cpu", streams=streams, around=around, precisions=precisions)
    lines = list(table("streams", tmp_path))
    assert "| **service, exactly once** | 900 | 899 to 901 | 0.90 | 1.00 | 2,000 |" in lines
    assert "| plain loop | 450 | 449 to 451 | 0.45 | 2.00 | 4,000 |" in lines
    assert any("1,600 us" in line and "400 us" in line and "would reach 0.67 of" in line for line in lines)


def test_the_picture_of_latencies_has_a_line_for_each_way_and_quantile(tmp_path):
    loads = [{"load": 10, "p50_ms": 20.0, "p99_ms": 40.0}, {"load": 90, "p50_ms": 200.0, "p99_ms": 900.0}]
    kept(tmp_path, "latency", ways={"exactly once": {"loads": loads}, "a < b": {"loads": loads}})
    ((name, picture),) = pictures(tmp_path)
    assert name == "latency.svg"
    names = [each.text for each in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert [each for each in names if "p50" in (each or "") or "p99" in (each or "")] == [
        "exactly once, p50",
        "exactly once, p99",
        "a < b, p50",
        "a < b, p99",
    ]
    # A higher latency is drawn higher up.
    first, second = [each for each in picture.splitlines() if 'stroke-width="2"' in each and "L" in each][:2]
    assert float(first.split("L")[0].split()[-1]) > float(second.split("L")[0].split()[-1])


def test_the_time_of_kernels_and_of_what_lies_between_them_adds_up():
    """Two kernels side by side are not counted twice."""
    found = shares(
        [
            ("nvjet_hsh_128x256", 0.0, 6.0),
            ("_rotary_attention", 6.0, 8.0),
            ("void gelu_kernel", 7.0, 9.0),
            ("Memcpy DtoH", 9.5, 10.0),
        ]
    )
    assert found == {
        "matrix products": 0.6,
        "attention": 0.2,
        "gelu": 0.1,
        "idle between kernels": 0.05,
        "copies": 0.05,
    }
