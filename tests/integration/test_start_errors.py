"""A service that cannot start says why in one line, with the cure, and no traceback."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable

import pytest

from schemas import SequenceRecord, decode_prediction, encode_record
from tests.support.harness import ROOT, broker_process, environment, produce, read, serving, virnucpro
from tests.support.kafka.ending import error_line, logged_error


def refusal(code: int, **variables: str) -> str:
    done = virnucpro("serve", **variables)
    text = done.stderr.decode()
    assert done.returncode == code, text
    assert json.loads(text.splitlines()[-1])["exit_code"] == code
    return logged_error(text)


def test_the_error_of_a_service_whose_log_is_for_people_is_for_people():
    done = virnucpro("serve", VIRNUCPRO_MODEL="no-such-model", VIRNUCPRO_LOG_FORMAT="console")
    assert done.returncode == 1
    assert error_line(done.stderr.decode()) == done.stderr.decode().splitlines()[-1]


def test_each_setting_that_cannot_be_has_its_line_of_the_log():
    done = virnucpro("serve", VIRNUCPRO_LOG_LEVEL="loud", VIRNUCPRO_LOG_FORMAT="xml")
    lines = [json.loads(line) for line in done.stderr.decode().splitlines()]
    assert done.returncode == 2
    assert [(line["event"], line["error"].split("=")[0], line["exit_code"]) for line in lines] == [
        ("service_failed", "VIRNUCPRO_LOG_LEVEL", 2),
        ("service_failed", "VIRNUCPRO_LOG_FORMAT", 2),
    ]


def test_a_port_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        line = refusal(1, VIRNUCPRO_HTTP_PORT=port)
    assert port in line
    assert "VIRNUCPRO_HTTP_PORT" in line


def test_an_unreachable_broker():
    line = refusal(
        1,
        VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1",
        VIRNUCPRO_DELIVERY="at_least_once",
        VIRNUCPRO_STARTUP_TIMEOUT_S="2",
    )
    assert "127.0.0.1:1" in line
    assert "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS" in line


def test_exactly_once_on_an_embedded_broker_of_another_process(tmp_path):
    with broker_process(tmp_path / "broker.log") as bootstrap:
        line = refusal(1, VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS=bootstrap)
    assert "no transactions" in line
    assert "VIRNUCPRO_DELIVERY=at_least_once" in line


def test_a_missing_topic(tmp_path):
    with broker_process(tmp_path / "broker.log") as bootstrap:
        line = refusal(
            1,
            VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS=bootstrap,
            VIRNUCPRO_DELIVERY="at_least_once",
            VIRNUCPRO_INPUT_TOPIC="nowhere",
        )
    assert "nowhere" in line
    assert "create it" in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VIRNUCPRO_V1_ATTENTION", "maybe"),
        ("VIRNUCPRO_DELIVERY", "exactly_once"),
        ("VIRNUCPRO_TOKEN_BUDGET", "many"),
        ("VIRNUCPRO_NONSENSE", "1"),
        ("VIRNUCPRO_GROUP_ID", "gruppe-ä"),
        ("VIRNUCPRO_GROUP_ID", "a\tb"),
        ("VIRNUCPRO_INSTANCE_ID", "worker-\u2028"),
        ("VIRNUCPRO_KAFKA_ENABLE_AUTO_COMMIT", "true"),
    ],
)
def test_a_setting_that_cannot_be(name, value):
    assert name in refusal(2, **{name: value})


def test_a_model_that_does_not_exist():
    assert "no-such-model" in refusal(1, VIRNUCPRO_MODEL="no-such-model")


def test_a_budget_too_small_for_a_frame():
    assert "VIRNUCPRO_TOKEN_BUDGET" in refusal(1, VIRNUCPRO_TOKEN_BUDGET="100")


def test_a_self_test_that_is_off_is_warned_of(tmp_path):
    with serving(tmp_path / "serve.log", VIRNUCPRO_SELF_TEST="off"):
        lines = [json.loads(line) for line in (tmp_path / "serve.log").read_text().splitlines()]
    events = {line["event"]: line for line in lines}
    assert (events["self_test_off"]["level"], events["self_test_off"]["setting"]) == (
        "warning",
        "VIRNUCPRO_SELF_TEST",
    )
    assert (events["model_loading"]["model"], events["model_loading"]["device"]) == ("nano", "auto")
    assert (events["model_loaded"]["attention"], events["model_loaded"]["self_test"]) == ("packed", None)
    refused = {line["backend"] for line in lines if line["event"] == "attention_backend_refused"}
    assert {"esm2: flash_attn", "esm2: varlen"} <= refused


@pytest.mark.parametrize("redirection", ["> /dev/full", ">&-", "<&- >&- 2>/dev/null"])
def test_a_stdout_that_takes_nothing_does_not_stop_the_service(redirection):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        "sh",
        "-c",
        f'exec "$@" {redirection}',
        "sh",
        sys.executable,
        "-m",
        "consumer.cli.app",
        "serve",
    ]
    variables = {"VIRNUCPRO_HTTP_PORT": str(port), "VIRNUCPRO_SELF_TEST": "off"}
    with subprocess.Popen(command, env=environment(**variables), cwd=ROOT, stderr=subprocess.PIPE) as process:
        try:
            wait_until(lambda: is_ready(port), process)
        finally:
            process.send_signal(signal.SIGTERM)
            _, error = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"Traceback" not in error
    assert (b"announcement_failed" in error) == ("2>" not in redirection)


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 90
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.2)


def test_the_v1_variable_is_stamped_on_each_prediction(tmp_path):
    with serving(tmp_path / "serve.log", VIRNUCPRO_V1_ATTENTION="1") as serve:
        produce(serve.bootstrap, [{"value": encode_record(SequenceRecord("r", "ACGTACGTACGTACG"))}])
        (message,) = read(serve.bootstrap, "predictions", lambda found: len(found) >= 1)
        assert decode_prediction(message.value()).provenance.attention == "v1"
        assert serve.metric("vnp_model_info", attention="v1") == 1
