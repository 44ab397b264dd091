"""The image and the Compose file say what the code says: settings, topics, ports, folders, grace periods."""

from __future__ import annotations

import json
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer import runtime
from consumer.config.clients import producer_config
from consumer.config.settings import ServiceSettings, load_settings
from consumer.errors import ExitCode
from tests.support.kafka.kraft import KAFKA
from virnucpro_core._version import __version__

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
Instruction = tuple[str, str]


def instructions() -> list[Instruction]:
    """(name, arguments) of each instruction of the Dockerfile, its lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    whole = re.sub(r"\\\n", " ", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in whole.splitlines() if line.strip()]


def final_stage() -> list[Instruction]:
    found = instructions()
    return found[max(i for i, (name, _) in enumerate(found) if name == "FROM") :]


def one(name: str) -> str:
    (arguments,) = [arguments for found, arguments in final_stage() if found == name]
    return arguments


def image_environment() -> dict[str, str]:
    pairs = [pair for name, text in final_stage() if name == "ENV" for pair in shlex.split(text)]
    return dict(pair.split("=", 1) for pair in pairs)


def copied() -> dict[str, str]:
    """Destination of each path of the repository that any stage copies."""
    found = {}
    for name, text in instructions():
        if name == "COPY" and not text.startswith("--from"):
            *sources, destination = text.split()
            found |= dict.fromkeys(sources, destination)
    return found


def compose_text(**variables: str) -> str:
    """The Compose file with its variables replaced as Compose does it: by value, else by default."""
    text = (DEPLOY / "compose" / "compose.yaml").read_text()
    text = re.sub(r"(?<!\$)\$\{(\w+):-([^}]*)\}", lambda match: variables.get(match[1], match[2]), text)
    return text.replace("$$", "$")


def compose() -> dict[str, Any]:
    return yaml.safe_load(compose_text())


def service(name: str) -> dict[str, Any]:
    return compose()["services"][name]


def seconds(text: str) -> float:
    return float(re.fullmatch(r"(\d+)s", text)[1])


def base_image() -> str:
    (image,) = [text.split("=", 1)[1] for name, text in instructions() if text.startswith("PYTHON_IMAGE=")]
    return image


# ---- settings ------------------------------------------------------------------------------------------------


def test_every_setting_of_the_image_is_one():
    settings = load_settings(image_environment())
    assert settings.state_dir == image_environment()["VIRNUCPRO_STATE_DIR"]


@pytest.mark.parametrize("name", ["virnucpro", "publish", "watch"])
def test_every_setting_in_compose_is_one(name):
    variables = service(name)["environment"]
    settings = load_settings(image_environment() | variables)
    assert settings.delivery == "exactly_once"
    assert settings.kafka_bootstrap_servers in [
        address.removeprefix("INSIDE://")
        for address in service("kafka")["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    ]


def test_variables_that_compose_takes_from_outside_are_settings_or_described():
    head = (DEPLOY / "compose" / "compose.yaml").read_text().split("\nname:")[0]
    taken = set(re.findall(r"(?<!\$)\$\{(\w+)", (DEPLOY / "compose" / "compose.yaml").read_text()))
    arguments = {text.split("=")[0] for name, text in instructions() if name == "ARG"}
    assert {name for name in taken if name not in head and name not in arguments} == set()
    assert set(service("virnucpro")["build"]["args"]) == arguments
    ours = {name for name in taken if name.startswith("VIRNUCPRO_")} - {"VIRNUCPRO_IMAGE"}
    assert {name.removeprefix("VIRNUCPRO_").lower() for name in ours} <= set(ServiceSettings.model_fields)


# ---- topics and broker ---------------------------------------------------------------------------------------


def test_the_topics_are_those_of_the_settings_and_take_what_the_service_sends():
    settings = load_settings({"VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": "kafka:9092"})
    script = service("topics")["command"][0]
    created = {topic: int(limit) for topic, limit in re.findall(r"^create ([\w.]+) (\d+)$", script, re.M)}
    largest = producer_config(settings)["message.max.bytes"]
    assert created == {
        settings.input_topic: settings.max_message_bytes,
        settings.output_topic: largest,
        settings.dlq_topic: largest,
    }
    assert "--if-not-exists" in script
    assert service("topics")["environment"] == {"PARTITIONS": 4}


def test_the_broker_is_the_one_that_is_tested():
    assert service("kafka")["image"] == service("topics")["image"] == f"apache/kafka:{KAFKA}"


def test_every_replication_factor_is_one_as_there_is_one_broker():
    factors = {
        name: value
        for name, value in service("kafka")["environment"].items()
        if name.endswith(("REPLICATION_FACTOR", "MIN_ISR"))
    }
    assert len(factors) == 5
    assert set(factors.values()) == {1}


# ---- the image -----------------------------------------------------------------------------------------------


def test_images_are_pinned():
    tag = r"[a-z/-]+:v?\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?"
    others = {text.split()[0] for name, text in instructions() if name == "FROM"}
    assert others == {"${PYTHON_IMAGE}", "dependencies", "base-${DEVICE}"}
    assert re.fullmatch(tag, base_image())
    for name in ("kafka", "prometheus", "grafana", "registry"):
        assert re.fullmatch(tag, service(name)["image"])
    assert service("virnucpro")["build"]["args"]["PYTHON_IMAGE"] == base_image()


def test_no_service_is_root_and_nothing_is_written_outside_the_state_folder():
    user, group = one("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert f"--uid {user} " in one("RUN")
    # A volume may be writable for others, as an emptyDir is: the service makes a separate folder in it.
    volume = str(Path(image_environment()["VIRNUCPRO_STATE_DIR"]).parent)
    assert one("VOLUME") == volume
    assert service("virnucpro")["volumes"] == [f"state:{volume}"]
    for name in ("virnucpro", "publish", "watch"):
        assert service(name)["read_only"] is True
        assert service(name)["cap_drop"] == ["ALL"]


def test_the_label_has_the_version():
    assert f'image.version="{__version__}"' in one("LABEL")


def test_everything_that_is_copied_reaches_the_builder_and_nothing_else_does():
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    allowed = {rule[1:] for rule in rules if rule[0] == "!"}
    assert rules[0] == "*"
    assert allowed == {path for path in copied() if not path.startswith("consumer/")}
    assert [path for path in copied() if not (ROOT / path).exists()] == []
    assert any(fnmatch("consumer/cli/__pycache__", rule) for rule in rules[1:])


def test_dependencies_are_copied_before_the_code():
    texts = [text for name, text in final_stage() if name == "COPY"]
    assert texts[0].startswith("--from=dependencies")
    stages = re.split(r"\nFROM ", DOCKERFILE.read_text())
    assert "consumer" not in stages[1]


def test_there_is_an_image_for_each_device():
    stages = {text.split()[-1] for name, text in instructions() if name == "FROM"}
    script = (DEPLOY / "docker" / "install.sh").read_text()
    assert {"base-cpu", "base-cuda"} <= stages
    assert "cpu | cuda)" in script
    assert service("virnucpro")["build"]["args"]["DEVICE"] == "cpu"


def test_the_same_is_left_out_of_torch_as_by_make_setup():
    def left_out(script: Path) -> list[str]:
        text = script.read_text()
        return re.findall(r"triton nvidia-[\w -]+", text) + re.findall(r"sed -n -E ('[^']*')", text)

    mine = left_out(DEPLOY / "docker" / "install.sh")
    assert len(mine) == 2
    assert mine == left_out(ROOT / "requirements" / "install.sh")


# ---- starting, stopping, health ------------------------------------------------------------------------------


def test_a_container_is_given_the_time_that_a_drain_may_take():
    grace = seconds(service("virnucpro")["stop_grace_period"])
    assert grace > load_settings({}).drain_timeout_s + runtime._WATCHDOG_S
    assert one("STOPSIGNAL") == "SIGTERM"


def test_ports_and_commands():
    port = load_settings({}).http_port
    assert one("EXPOSE") == str(port)
    assert service("virnucpro")["ports"] == [f"127.0.0.1:8080:{port}"]
    assert json.loads(one("ENTRYPOINT")) == ["virnucpro"]
    assert json.loads(one("CMD")) == ["serve"]
    sample = copied()["consumer/data/sample.fasta"]
    assert service("publish")["command"] == ["publish", sample]


def test_the_health_checks_run_the_probe_that_is_copied():
    probe = copied()["deploy/docker/probe.py"]
    assert json.loads(one("HEALTHCHECK").split("CMD", 1)[1]) == ["python", "-IS", probe, "livez"]
    assert service("virnucpro")["healthcheck"]["test"] == ["CMD", "python", "-IS", probe, "readyz"]


# ---- monitoring ----------------------------------------------------------------------------------------------


def test_prometheus_and_grafana_of_compose_are_handed_files_that_exist():
    for name in ("prometheus", "grafana"):
        sources = [text.split(":")[0] for text in service(name)["volumes"] if text.startswith(".")]
        assert [path for path in sources if not (DEPLOY / "compose" / path).is_file()] == []


def test_prometheus_of_compose_scrapes_the_service_under_a_name_that_the_rules_look_for():
    config = yaml.safe_load((DEPLOY / "compose" / "prometheus.yaml").read_text())
    (job,) = config["scrape_configs"]
    (target,) = job["dns_sd_configs"]
    assert re.fullmatch(".*virnucpro.*", job["job_name"])
    assert target["names"][0] in compose()["services"]
    assert target["port"] == load_settings({}).http_port
    mounted = dict(text.split(":")[:2] for text in service("prometheus")["volumes"])
    assert config["rule_files"] == [mounted["../helm/virnucpro-stream/files/rules.yaml"]]


# ---- systemd -------------------------------------------------------------------------------------------------

UNIT = (DEPLOY / "systemd" / "virnucpro@.service").read_text()


def unit(name: str) -> list[str]:
    """The values of a line of the unit."""
    return re.findall(rf"^{name}=(.*)$", UNIT, re.M)


def unit_environment() -> dict[str, str]:
    """As GPU 1 of the machine `host` has it, with the example of a settings file."""
    example = (DEPLOY / "systemd" / "virnucpro.env.example").read_text()
    lines = [*(pair for line in unit("Environment") for pair in line.split()), *example.splitlines()]
    pairs = [line.split("=", 1) for line in lines if line and line[0] != "#"]
    return {name: value.replace("%i", "1").replace("%H", "host") for name, value in pairs}


def test_every_setting_of_the_unit_is_one():
    variables = {name: value for name, value in unit_environment().items() if name.startswith("VIRNUCPRO_")}
    settings = load_settings(variables)
    assert (settings.device, settings.instance_id, settings.http_port) == ("cuda:1", "host-gpu1", 8081)
    assert settings.delivery == "exactly_once"
    assert settings.state_dir == "/var/lib/" + unit("StateDirectory")[0].replace("%i", "1")


def test_the_unit_gives_the_time_that_a_drain_may_take_and_restarts_what_a_restart_can_help():
    assert float(unit("TimeoutStopSec")[0]) > load_settings({}).drain_timeout_s + runtime._WATCHDOG_S
    assert unit("Restart") == ["on-failure"]
    assert [int(code) for code in unit("RestartPreventExitStatus")] == [ExitCode.USAGE]


def test_the_allocator_is_set_as_in_the_image():
    image = {name: value for name, value in image_environment().items() if name.startswith("MALLOC_")}
    assert image == {name: value for name, value in unit_environment().items() if name.startswith("MALLOC_")}
    assert len(image) == 3
