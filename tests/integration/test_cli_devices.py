"""`virnucpro devices` against what loading the model gives, and `predict --threads`."""

from __future__ import annotations

import json
import re

import pytest
import torch

from consumer.cli.app import run
from tests.support.harness import ROOT
from virnucpro_core.bundle.bundle import Bundle, find_bundle
from virnucpro_core.models.device import EngineError
from virnucpro_core.models.engine import Engine
from virnucpro_core.models.precision import PRECISIONS

SAMPLE = ROOT / "consumer" / "data" / "sample.fasta"


def test_each_device_and_precision_is_as_it_loads(capsys):
    assert run(["devices", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "nano-500"
    bundle = Bundle.load(find_bundle("nano"))
    assert {use["precision"] for use in found["devices"] if use["device"] == "cpu"} == set(PRECISIONS)
    assert [use["precision"] for use in found["devices"] if use["device"] == "cpu" and use["is_default"]] == [
        "fp32"
    ]
    assert (found["no_gpu"] is None) == torch.cuda.is_available()
    for use in found["devices"]:
        arguments = {"device": use["device"], "precision": use["precision"], "self_test": False}
        if use["why_not"]:
            with pytest.raises(EngineError) as refused:
                Engine(bundle, **arguments)
            assert str(refused.value) == use["why_not"]
            continue
        info = Engine(bundle, **arguments).info
        assert (use["esm2"], use["dnabert_s"]) == (info.attention_backend, info.dna_attention_backend)
        assert use["refusals"].items() <= info.refusals.items()


def test_the_table_has_a_row_for_each_and_says_why_not(capsys):
    assert run(["devices"]) == 0
    out = capsys.readouterr().out
    assert "precision fp16 needs a GPU" in out
    assert "cpu fp32, not used: esm2: flash_attn: needs a CUDA device, not cpu" in out
    refused = [line for line in out.splitlines() if re.match("cpu +fp", line) and " needs a GPU" in line]
    assert len(refused) > 1
    assert len({line.index("precision ") for line in refused}) == 1


@pytest.mark.parametrize(("threads", "said"), [(1, "cpu: 1 thread"), (2, "cpu: 2 threads")])
def test_the_cpu_has_its_threads_beside_it(monkeypatch, capsys, threads, said):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert run(["devices"]) == 0
    assert said in capsys.readouterr().out.splitlines()


def test_the_number_of_threads_changes_no_answer(tmp_path, capsys):
    sample = tmp_path / "some.fasta"
    sample.write_text("".join(SAMPLE.read_text().splitlines(keepends=True)[:60]))
    before = torch.get_num_threads()
    tables = []
    try:
        for threads in ("1", "2"):
            assert run(["predict", str(sample), "--device", "cpu", "--threads", threads]) == 0
            assert torch.get_num_threads() == int(threads)
            tables.append(capsys.readouterr().out)
    finally:
        torch.set_num_threads(before)
    assert tables[0] == tables[1]
    assert run(["predict", str(sample), "--threads", "0"]) == 2
