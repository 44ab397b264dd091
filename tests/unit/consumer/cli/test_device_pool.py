"""Which devices may work side by side, and how many threads each gets."""

from __future__ import annotations

import signal
from multiprocessing.process import BaseProcess

import pytest

from consumer.cli.error_messages import UserError
from consumer.cli.files.device_names import device_names, processes_for, threads_of_each
from consumer.cli.files.device_pool import DevicePool, common_info
from consumer.config.settings import ModelSettings
from virnucpro_core.scoring.model import EngineInfo


def info(device: str, precision: str = "fp16") -> EngineInfo:
    return EngineInfo("m", "sha", 500, "packed", "varlen", "sdpa", precision, device)


def test_two_gpus_of_one_product_are_one_kind():
    both = common_info(["cuda:0", "cuda:1"], [info("cuda:0 (H200)"), info("cuda:1 (H200)")])
    assert both.device == "cuda:0 (H200), cuda:1 (H200)"
    assert both.kind_of_device == info("cuda:7 (H200)").kind_of_device == "cuda (H200)"


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (info("cuda:1 (A100)"), r"cuda:0 and cuda:1 differ in device \(cuda \(H200\), cuda \(A100\)\)"),
        (info("cuda:1 (H200)", "fp32"), r"differ in precision \(fp16, fp32\)"),
    ],
)
def test_devices_that_would_not_give_the_same_bytes_are_refused(other, says):
    with pytest.raises(UserError, match=says):
        common_info(["cuda:0", "cuda:1"], [info("cuda:0 (H200)"), other])


def test_names():
    assert device_names(None, None) == [None]
    assert device_names("cuda:1", None) == ["cuda:1"]
    assert device_names(None, "cuda, cuda:1") == ["cuda:0", "cuda:1"]
    assert device_names(None, "cpu,cpu,cpu") == ["cpu"] * 3


def test_all_is_every_gpu_else_the_processor(monkeypatch):
    monkeypatch.setattr("virnucpro_core.models.device_list.gpus", lambda: ["cuda:0", "cuda:1"])
    assert device_names(None, "all") == ["cuda:0", "cuda:1"]
    monkeypatch.setattr("virnucpro_core.models.device_list.gpus", list)
    assert device_names(None, "all") == ["cpu"]


def test_a_gpu_has_a_process_of_its_own_and_the_one_processor_none(monkeypatch):
    monkeypatch.setattr("virnucpro_core.models.device_list.gpus", lambda: ["cuda:0", "cuda:1"])
    assert processes_for([None], "auto") == ["cuda:0"]
    assert processes_for([None], "cuda:1") == processes_for(["cuda:1"], "cuda:1") == ["cuda:1"]
    assert processes_for(["cpu", "cpu"], "cpu") == ["cpu", "cpu"]
    assert processes_for([None], "cpu") == processes_for(["cpu"], "cpu") == []
    monkeypatch.setattr("virnucpro_core.models.device_list.gpus", list)
    assert processes_for([None], "auto") == []


def test_processes_on_one_processor_share_its_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("consumer.cli.files.device_names.cores", lambda: 7)
    assert threads_of_each(["cpu", "cpu", "cpu"], None) == 2
    assert threads_of_each(["cpu"] * 9, None) == 1
    assert threads_of_each(["cpu", "cpu"], 4) == 4
    assert threads_of_each(["cuda:0", "cuda:1"], None) is None
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_of_each(["cpu", "cpu"], None) is None


def test_ctrl_c_waits_until_a_process_has_been_told_what_to_do(monkeypatch):
    started = []

    def start(process: BaseProcess) -> None:
        signal.raise_signal(signal.SIGINT)
        started.append(process.name)

    monkeypatch.setattr(BaseProcess, "start", start)
    # A process that has not been started cannot be ended.
    monkeypatch.setattr(DevicePool, "_end", lambda self, now: None)
    with pytest.raises(KeyboardInterrupt):
        DevicePool(["cpu", "cpu"], ModelSettings(), 1)
    assert started == ["virnucpro cpu"]
