"""docs/performance.md's tables, from the results in benchmarks/results: `make docs` writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
_NOT_RUN = "not run"
_PUBLISHED, _FAIR_ESM = "published v2 fp16", "fair-esm fp16"
_AGAINST = ("x published v2", "x FAESM", "x fair-esm fp16")
_NAMES = {"triton": "this project", "torch": "this project, plain torch", "graph": "this project, CUDA graph"}
"""Of our own methods, by their first word."""

Result = Mapping[str, Any]


def result(name: str, folder: Path = RESULTS) -> Result | None:
    """What is kept of a benchmark; None if it has not been run."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def table(name: str, folder: Path = RESULTS) -> Iterator[str]:
    """The lines of one table. Without a result there is one line, which names the command that makes it."""
    source, rows = TABLES[name]
    name_of_target, _, device = source.partition("-")
    command = f"`make bench-{name_of_target}`{' on a GPU' if device else ''}"
    found = result(source, folder)
    if found is None:
        yield f"Not run yet: {command}."
        return
    lines = list(rows(found))
    yield from lines or [f"Not run: {command} did not get there."]


def measured_on(name: str, folder: Path = RESULTS) -> Iterator[str]:
    """A sentence: the machine, its load, versions, commit, and what could not be run."""
    found = result(name, folder)
    if found is None:
        return
    about = found["about"]
    processor = f"{about['cores']} cores of {about['processor']}" if about["processor"] else ""
    machine = ", ".join(filter(None, (about["gpu"], processor)))
    load = "" if about["load_average"] is None else f", load average {about['load_average']:.1f} before"
    versions = ", ".join(f"{package} {version}" for package, version in about["versions"].items() if version)
    yield f"Commit {about['commit']}, {about['date']}; {machine}{load}; {versions}."
    if missing := dict(_missing(found)):
        yield ""
        yield "Not run: " + "; ".join(f"{what} ({why})" for what, why in missing.items()) + "."


def _missing(found: Any) -> Iterator[tuple[str, str]]:
    """What could not be run, wherever in a result, with the reason."""
    if isinstance(found, Mapping):
        yield from found.get(_NOT_RUN, {}).items()
        for value in found.values():
            yield from _missing(value)
    elif isinstance(found, list):
        for value in found:
            yield from _missing(value)


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _name(method: str) -> str:
    first, _, rest = method.partition(" ")
    return f"**{_NAMES[first]} {rest}**" if first in _NAMES else method


def _times(row: Result, other: Result | None) -> str:
    return f"{row['tokens_per_s'] / other['tokens_per_s']:.2f}" if other else "-"


def _faesm(method: str) -> str:
    """FAESM in the same 16-bit precision, or in bf16, its faster one, for others."""
    precision = method.rsplit(" ", 1)[1]
    return f"FAESM {precision if precision in ('fp16', 'bf16') else 'bf16'}"


def forward(found: Result) -> Iterator[str]:
    """ESM-2's forward at the full batch."""
    if not found["shapes"]:
        return
    yield _row("", "U500 tokens/s", "MIX tokens/s", "share of the products", *_AGAINST, "cosine")
    yield _row(*["---"] * 8)
    for shape in found["shapes"]:
        methods = shape["U500"]["methods"]
        for method, row in methods.items():
            mixed = shape["MIX"]["methods"][method]
            share = row.get("share_of_products")
            yield _row(
                f"{shape['shape']}: {_name(method)}",
                f"{row['tokens_per_s']:,}",
                f"{mixed['tokens_per_s']:,}",
                "-" if share is None else f"{share:.2f}",
                *(_times(row, methods.get(peer)) for peer in (_PUBLISHED, _faesm(method), _FAIR_ESM)),
                row["cosine"],
            )
    tflops = ", ".join(
        f"{shape['shape']} {precision} {rate:.0f}"
        for shape in found["shapes"]
        for precision, rate in shape["U500"]["products_tflops"].items()
    )
    spreads = [
        row["spread"]
        for shape in found["shapes"]
        for kind in ("U500", "MIX")
        for row in shape[kind]["methods"].values()
    ]
    yield ""
    yield (
        f"{found['tokens']:,} tokens a batch, medians of {found['rounds']} rounds in one process, which differ by "
        f"{min(spreads):.1%} to {max(spreads):.1%} of the median; ratios are of U500. The products alone, TFLOP/s: "
        f"{tflops}."
    )


def kernels(found: Result) -> Iterator[str]:
    """Where the GPU's time goes in our own forwards."""
    profiles = [
        (shape["shape"], method, shares)
        for shape in found["shapes"]
        for method, shares in shape["U500"].get("profile", {}).items()
    ]
    if not profiles:
        return
    kinds = list(dict.fromkeys(kind for _, _, shares in profiles for kind in shares))
    yield _row("share of the GPU's time, U500", *kinds)
    yield _row("---", *["---"] * len(kinds))
    for shape, method, shares in profiles:
        shown = [f"{shares[kind]:.1%}" if kind in shares else "-" for kind in kinds]
        yield _row(f"{shape}: {_name(method)}", *shown)


def small(found: Result) -> Iterator[str]:
    """Small batches: milliseconds of a forward."""
    sizes = [(shape, tokens) for shape in found["shapes"] for tokens in shape["small"]]
    if not sizes:
        return
    heads = [f"{shape['shape']}, {int(tokens):,} tokens" for shape, tokens in sizes]
    yield _row("ms a forward", *heads)
    yield _row("---", *["---"] * len(sizes))
    methods = dict.fromkeys(method for shape, tokens in sizes for method in shape["small"][tokens]["methods"])
    for method in methods:
        rows = [shape["small"][tokens]["methods"].get(method) for shape, tokens in sizes]
        shown = ["-" if row is None else f"{row['ms']:.2f}" for row in rows]
        yield _row(_name(method), *shown)


def labels(found: Result) -> Iterator[str]:
    """nano's labels in each precision."""
    if "labels" not in found:
        return
    frames = f"{found['labels']['frames']:,} frames of real genomes"
    yield _row("precision", f"labels as in fp32, {frames}", "largest difference of a score")
    yield _row(*["---"] * 3)
    for precision, row in found["labels"]["precisions"].items():
        yield _row(precision, f"{row['equal']:.2%}", f"{row['largest_difference']:.2g}")


def end_to_end(found: Result) -> Iterator[str]:
    """The service beside the model alone."""
    if not found["cases"]:
        return
    yield _row(
        "",
        "tokens/s",
        "records/s",
        "of ESM-2 alone",
        "of `Engine.score`",
        "GPU busy",
        "batches at least 0.95 full",
        "processor time a record",
        "ready after",
        "both models / ESM-2 alone",
    )
    yield _row(*["---"] * 10)
    for case in found["cases"]:
        service = case["service"]
        yield _row(
            f"{case['case']} on {case['device']}",
            f"{service['tokens_per_s']:,}",
            f"{service['records_per_s']:,.0f}",
            f"{case['share_of_esm2']:.2f}",
            f"{case['share_of_score']:.2f}",
            f"{service['gpu_busy']:.0%}" if "gpu_busy" in service else "-",
            f"{service['batches_full']:.1%}",
            f"{service['cpu_us_a_record']:.0f} us",
            f"{case['ready_s']:.1f} s",
            f"{case['both_models_against_esm2']:.2f}",
        )


def against_loops(found: Result) -> Iterator[str]:
    """The service beside the plain loop on fair-esm's forward."""
    loops = found.get("loops", [])
    served = {case["case"]: case["service"]["records_per_s"] for case in found["cases"]}
    if not loops:
        return
    yield _row("records/s", "plain loop", *(f"service, {name}" for name in served))
    yield _row("---", "---", *["---"] * len(served))
    for loop in loops:
        model = loop["case"].split()[0]
        shown = [
            f"{rate:,.0f} ({rate / loop['records_per_s']:.1f}x)" if name.split()[0] == model else "-"
            for name, rate in served.items()
        ]
        yield _row(loop["case"], f"{loop['records_per_s']:,.1f}", *shown)


def stages(found: Result) -> Iterator[str]:
    """Where the threads of the service spend their time."""
    if not found["cases"]:
        return
    yield _row("", "us a record, by thread and stage")
    yield _row("---", "---")
    for case in found["cases"]:
        spent = case["service"]["stage_us_a_record"].items()
        shown = ", ".join(f"{_stage(labels_)} {us:.0f}" for labels_, us in spent if us >= 0.5)
        yield _row(case["case"], shown)


def _stage(labels_: str) -> str:
    """`stage=infer,thread=inference` -> `inference: infer`."""
    parts = dict(part.split("=", 1) for part in labels_.split(","))
    return f"{parts['thread']}: {parts['stage']}"


def predict(found: Result) -> Iterator[str]:
    """`predict` by threads, alone and beside other programs."""
    yield _row("", "seconds", "processor seconds")
    yield _row(*["---"] * 3)
    for row in found["predict"]:
        beside = f"beside {row['busy_cores']} busy processes" if row["busy_cores"] else "alone"
        threads = "1 thread" if row["threads"] == 1 else f"{row['threads']} threads"
        yield _row(f"{threads}, {beside}", _seconds(row["wall_s"]), _seconds(row["cpu_s"]))


def streams(found: Result) -> Iterator[str]:
    """The service beside the engine alone, a plain loop and frameworks."""
    rates, cpus = found["streams"]["records_per_s"], found["streams"]["cpu_us_a_record"]
    yield _row(
        "",
        "records/s",
        "lowest to highest",
        "of the engine alone",
        "the service is so many times as fast",
        "us",
    )
    yield _row(*["---"] * 6)
    for way, rate in rates.items():
        yield _row(
            f"**{way}, exactly once**" if way == "service" else way,
            f"{rate['median']:,.0f}",
            f"{rate['lowest']:,.0f} to {rate['highest']:,.0f}",
            f"{rate['median'] / rates['engine alone']['median']:.2f}",
            f"{rates['service']['median'] / rate['median']:.2f}",
            f"{cpus[way]['median']:,.0f}" if way in cpus else "-",
        )
    precisions = found["precisions"]
    fp32, bf16 = (precisions["records_per_s"][name]["median"] for name in ("fp32", "bf16"))
    yield ""
    yield (
        f"In bf16 the engine alone is {bf16 / fp32:.2f} times as fast as in fp32 ({bf16:,.0f} and {fp32:,.0f} records "
        f"a second); {precisions['equal']:.2%} of the labels of {precisions['frames']} real frames are the same."
    )
    around = found["around"]
    if "broker_cpu_us" in found["streams"]:
        engine, broker = (found["streams"][name]["median"] for name in ("engine_cpu_us", "broker_cpu_us"))
        total = cpus["service"]["median"] + broker
        yield ""
        yield (
            f"Of the processor time of a record the engine alone takes {engine:,.0f} us, the broker on the same cores "
            f"{broker:,.0f} us: with all of the cores in use all of the time the service would reach "
            f"{engine / total:.2f} of the engine alone."
        )
    yield ""
    yield (
        f"With a model that computes nothing the service takes {around['cpu_us']['median']:.0f} us of processor time a "
        f"record ({around['cpu_us']['lowest']:.0f} to {around['cpu_us']['highest']:.0f}), exactly once, and answers "
        f"{around['records_per_s']['median']:,.0f} records a second."
    )


def operators(found: Result) -> Iterator[str]:
    """Where the processor's time goes in the engine."""
    if "operators" not in found:
        return
    times = found["operators"]
    yield _row(*times["shares"])
    yield _row(*["---"] * len(times["shares"]))
    yield _row(*(f"{share:.1%}" for share in times["shares"].values()))
    yield ""
    yield (
        f"The matrix products run at {times['products_gflops']:.0f} GFLOP/s, where those of large square matrices "
        f"sustain {times['square_gflops']:.0f}."
    )


def latency(found: Result) -> Iterator[str]:
    """Latencies by load, of each way."""
    yield _row(
        "offered, of the capacity", *(f"{way}: p50, p99, longest, ms" for way in found["ways"]), "a batch, ms"
    )
    yield _row(*["---"] * (2 + len(found["ways"])))
    ways = list(found["ways"].values())
    for rows in zip(*(way["loads"] for way in ways), strict=True):
        shown = [f"{row['p50_ms']:.0f}, {row['p99_ms']:.0f}, {row['longest_ms']:.0f}" for row in rows]
        yield _row(f"{rows[0]['load']}%", *shown, ", ".join(f"{row['batch_ms']:.0f}" for row in rows))
    yield ""
    yield (
        "; ".join(
            f"{name}: {way['capacity_records_per_s']:,.0f} records a second is the capacity, a full batch takes "
            f"{way['full_batch_ms']:.0f} ms"
            for name, way in found["ways"].items()
        )
        + "."
    )


def start(found: Result) -> Iterator[str]:
    """Seconds until commands have started."""
    yield _row("", "seconds, median", "lowest to highest")
    yield _row(*["---"] * 3)
    for name, took in found["seconds"].items():
        yield _row(f"`{name}`", f"{took['median']:.2f}", f"{took['lowest']:.2f} to {took['highest']:.2f}")


def scale(found: Result) -> Iterator[str]:
    """Workers, a member that joins, two GPUs."""
    if "workers" in found:
        yield _row("workers", "records/s", "of linear")
        yield _row(*["---"] * 3)
        for workers, row in found["workers"].items():
            yield _row(workers, f"{row['records_per_s']:,.0f}", f"{row['of_linear']:.2f}")
        joined = found["joining"]
        yield ""
        yield (
            f"While a second member joins, the longest latency is {joined['kept_longest_s']:.2f} s in the "
            f"{joined['partitions']['kept']} partitions that stay, {joined['moved_longest_s']:.2f} s in the "
            f"{joined['partitions']['moved']} that move; before, it is {joined['before_longest_s']:.2f} s."
        )
    if "gpus" in found:
        both = found["gpus"]
        yield ""
        yield (
            f"{both['case']}, one process for each GPU, in one group: {both['tokens_per_s']['1']:,} tokens/s on one, "
            f"{both['tokens_per_s']['2']:,} on two, {both['times']:.2f} times as many (commit "
            f"{both['about']['commit']}, {both['about']['gpu']})."
        )


def _seconds(figure: Result) -> str:
    if figure["lowest"] == figure["highest"]:
        return f"{figure['median']:.1f}"
    return f"{figure['median']:.1f} ({figure['lowest']:.1f} to {figure['highest']:.1f})"


TABLES: dict[str, tuple[str, Callable[[Result], Iterator[str]]]] = {
    "forward": ("gpu", forward),
    "kernels": ("gpu", kernels),
    "small": ("gpu", small),
    "labels": ("gpu", labels),
    "end-to-end": ("e2e", end_to_end),
    "stages": ("e2e", stages),
    "against-loops": ("e2e", against_loops),
    "end-to-end-gpu": ("e2e-gpu", end_to_end),
    "stages-gpu": ("e2e-gpu", stages),
    "against-loops-gpu": ("e2e-gpu", against_loops),
    "predict": ("cpu", predict),
    "streams": ("cpu", streams),
    "operators": ("cpu", operators),
    "latency": ("latency", latency),
    "start": ("start", start),
    "scale": ("scale", scale),
}
"""By name: the result that a table is of, and its lines."""
