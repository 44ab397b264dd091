"""What the environment may say, what it may not, and the words in which that is refused."""

from __future__ import annotations

import json
import re
import socket
import sys

import pytest
from pydantic import ValidationError

from consumer.config.environment import OWNED, client_options
from consumer.config.priority import PRIORITIES
from consumer.config.secrets import MASK
from consumer.config.settings import (
    ModelSettings,
    ServiceSettings,
    SettingsError,
    load_model_settings,
    load_settings,
)

REAL = {"VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": "broker:9092", "VIRNUCPRO_DELIVERY": "at_least_once"}

# Without line feeds, which would end the line of the refusal.
BAD_IDS = ("", "gruppe-ä", "a\tb", "a\x1bb", "a\x7f")


def refusal(environment: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as refused:
        load_settings(environment)
    return str(refused.value).splitlines()


def test_everything_has_a_default_that_works_on_the_embedded_broker():
    settings = load_settings({})
    assert settings.embedded
    assert settings.delivery == "at_least_once"
    assert (settings.input_topic, settings.output_topic, settings.dlq_topic) == (
        "sequences",
        "predictions",
        "sequences.dlq",
    )
    assert settings.instance_id == socket.gethostname()
    assert (settings.model, settings.http_port, settings.max_wait_ms) == ("nano", 8080, 50)
    assert settings.v1_attention is None
    assert settings.token_budget is None


def test_variables_set_their_fields_and_others_are_ignored():
    settings = load_settings(
        {
            **REAL,
            "VIRNUCPRO_INPUT_TOPIC": "reads",
            "VIRNUCPRO_TOKEN_BUDGET": "8192",
            "VIRNUCPRO_DRAIN_TIMEOUT_S": "2.5",
            "VIRNUCPRO_DEVICE": "cuda:1",
            "HOME": "/root",
            "virnucpro_input_topic": "not ours",
        }
    )
    assert (settings.input_topic, settings.token_budget, settings.drain_timeout_s) == ("reads", 8192, 2.5)
    assert (settings.device, settings.kafka_bootstrap_servers, settings.embedded) == (
        "cuda:1",
        "broker:9092",
        False,
    )


@pytest.mark.parametrize("name", ["VIRNUCPRO_GROUP_ID", "VIRNUCPRO_INSTANCE_ID"])
def test_an_id_takes_what_the_kafka_client_takes_of_a_group_and_is_bounded(name):
    printable = "".join(map(chr, range(32, 127)))
    for value in ("my group", printable, "x" * 249):
        assert value in load_settings({name: value}).model_dump().values()
    for value in ("a\n", "\n", "x" * 250):
        with pytest.raises(SettingsError, match=f"(?s){name}=.* is refused"):
            load_settings({name: value})


def test_overrides_win_and_are_checked():
    assert load_settings({"VIRNUCPRO_MODEL": "a"}, model="b").model == "b"
    assert load_settings(REAL | {"VIRNUCPRO_DELIVERY": "nonsense"}, delivery="at_least_once").delivery
    with pytest.raises(SettingsError, match="VIRNUCPRO_MAX_WAIT_MS=-1 is refused"):
        load_settings({}, max_wait_ms=-1)


@pytest.mark.parametrize("text", ["1", "true", "YES", "on", "True"])
def test_a_switch_is_on(text):
    assert load_settings({"VIRNUCPRO_V1_ATTENTION": text}).v1_attention is True


@pytest.mark.parametrize("text", ["0", "FALSE", "no", "Off"])
def test_a_switch_is_off(text):
    settings = load_settings({"VIRNUCPRO_V1_ATTENTION": text, "VIRNUCPRO_SELF_TEST": text})
    assert settings.v1_attention is False
    assert settings.self_test is False


@pytest.mark.parametrize("text", ["", "2", "y", "enabled", " true", "none", "1.0"])
@pytest.mark.parametrize("name", ["VIRNUCPRO_V1_ATTENTION", "VIRNUCPRO_SELF_TEST"])
def test_a_switch_takes_nothing_else(name, text):
    assert refusal({name: text}) == [
        f"{name}={text} is refused: it takes 1, true, yes or on; or 0, false, no or off"
    ]


@pytest.mark.parametrize(
    ("name", "value", "takes"),
    [
        ("VIRNUCPRO_MAX_WAIT_MS", "soon", "a whole number of milliseconds, 0 to 60000"),
        ("VIRNUCPRO_MAX_WAIT_MS", "1.5", "a whole number of milliseconds, 0 to 60000"),
        ("VIRNUCPRO_HTTP_PORT", "65536", "a port, 1 to 65535, or 0 for any free one"),
        ("VIRNUCPRO_HTTP_PORT", "", "a port, 1 to 65535, or 0 for any free one"),
        ("VIRNUCPRO_PRECISION", "fp4", "auto, fp32, fp16, bf16, fp8-ffn or fp8"),
        ("VIRNUCPRO_DEVICE", "gpu", "auto, cpu, cuda or cuda:N"),
        ("VIRNUCPRO_DELIVERY", "at_most_once", "exactly_once or at_least_once"),
        ("VIRNUCPRO_DRAIN_TIMEOUT_S", "inf", "a number of seconds, 0 to 86400"),
        ("VIRNUCPRO_DRAIN_TIMEOUT_S", "1e10", "a number of seconds, 0 to 86400"),
        *(
            ("VIRNUCPRO_GROUP_ID", value, "the name of a consumer group: 1 to 249 printable ASCII characters")
            for value in BAD_IDS
        ),
        *(
            (
                "VIRNUCPRO_INSTANCE_ID",
                value,
                "a name that no other member of the group has: 1 to 249 printable ASCII characters",
            )
            for value in BAD_IDS
        ),
        ("VIRNUCPRO_INPUT_TOPIC", "a b", "a topic name: 1 to 249 of A-Z a-z 0-9 . _ -"),
        ("VIRNUCPRO_LOG_LEVEL", "loud", "debug, info, warning or error"),
    ],
)
def test_a_wrong_value_is_told_with_what_the_variable_takes(name, value, takes):
    assert refusal({name: value}) == [f"{name}={value} is refused: it takes {takes}"]


def test_a_long_value_is_cut():
    (line,) = refusal({"VIRNUCPRO_LOG_LEVEL": "x" * 5000})
    assert len(line) < 200


def test_an_unknown_variable_is_refused_with_the_nearest_name():
    assert refusal({"VIRNUCPRO_INPT_TOPIC": "x"}) == [
        "unknown setting VIRNUCPRO_INPT_TOPIC: did you mean VIRNUCPRO_INPUT_TOPIC?"
    ]
    assert "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS" in refusal({"VIRNUCPRO_BOOTSTRAP_SERVERS": "x"})[0]
    assert "did you mean" not in refusal({"VIRNUCPRO_ZZZ": "x"})[0]
    assert refusal({"VIRNUCPRO_input_topic": "x"})[0].endswith("did you mean VIRNUCPRO_INPUT_TOPIC?")
    assert refusal({"VIRNUCPRO_KAFKA": "x"})


def test_all_problems_are_told_at_once():
    lines = refusal(
        {
            "VIRNUCPRO_MAX_WAIT_MS": "x",
            "VIRNUCPRO_NONSENSE": "1",
            "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": "broker:9092",
            "VIRNUCPRO_KAFKA_GROUP_ID": "mine",
        }
    )
    named = {re.search(r"VIRNUCPRO_\w+", line).group() for line in lines}
    assert named == {
        "VIRNUCPRO_MAX_WAIT_MS",
        "VIRNUCPRO_NONSENSE",
        "VIRNUCPRO_KAFKA_GROUP_ID",
    }


def test_exactly_once_is_the_default_but_on_the_embedded_broker():
    assert load_settings({"VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": "broker:9092"}).delivery == "exactly_once"
    assert load_settings({}).delivery == "at_least_once"
    (asked,) = refusal({"VIRNUCPRO_DELIVERY": "exactly_once"})
    assert "no transactions" in asked
    assert asked.endswith("or VIRNUCPRO_DELIVERY=at_least_once")


REGISTRY = {"VIRNUCPRO_SCHEMA_REGISTRY_URL": "https://registry:8081"}


def test_the_framing_follows_the_registry_and_what_is_asked_for():
    assert load_settings({}).framing == "single_object"
    assert load_settings(REGISTRY).framing == "confluent"
    for framing in ("single_object", "confluent", "confluent_header"):
        assert load_settings(REGISTRY | {"VIRNUCPRO_OUTPUT_FRAMING": framing}).framing == framing


@pytest.mark.parametrize("framing", ["confluent", "confluent_header"])
def test_a_framing_that_needs_a_registry_is_refused_without_one(framing):
    assert refusal({"VIRNUCPRO_OUTPUT_FRAMING": framing}) == [
        f"VIRNUCPRO_OUTPUT_FRAMING={framing} needs a schema registry: set VIRNUCPRO_SCHEMA_REGISTRY_URL, or "
        "VIRNUCPRO_OUTPUT_FRAMING=single_object"
    ]


@pytest.mark.parametrize("framing", ["single_object", "confluent", "confluent_header"])
def test_json_has_no_framing(framing):
    both = {"VIRNUCPRO_OUTPUT_FORMAT": "json", "VIRNUCPRO_OUTPUT_FRAMING": framing}
    assert refusal(REGISTRY | both) == [
        f"VIRNUCPRO_OUTPUT_FRAMING={framing} is refused: JSON has no framing, unset it or set "
        "VIRNUCPRO_OUTPUT_FORMAT=avro"
    ]


@pytest.mark.parametrize(
    "url",
    [
        "registry:8081",
        "ftp://u:hunter2@registry",
        "mock://x",
        "",
        "http://",
        "http://u:p@ss/hunter2@a,nonsense",
        "https://a,",
    ],
)
def test_a_registry_that_is_not_an_address_is_refused_and_its_password_not_shown(url):
    (line,) = refusal({"VIRNUCPRO_SCHEMA_REGISTRY_URL": url})
    assert line.startswith("VIRNUCPRO_SCHEMA_REGISTRY_URL=")
    assert line.endswith("is refused: it takes http://host:port or https://host:port, several with commas")
    assert "hunter2" not in line


def test_options_of_the_registrys_client_pass_through_by_name():
    environment = REGISTRY | {
        "VIRNUCPRO_SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO": "alice:hush",
        "VIRNUCPRO_SCHEMA_REGISTRY_TIMEOUT": "2.5",
        "VIRNUCPRO_SCHEMA_REGISTRY_AUTO_REGISTER": "yes",
    }
    settings = load_settings(environment)
    assert settings.schema_registry == {"basic.auth.user.info": "alice:hush", "timeout": "2.5"}
    assert settings.schema_registry_auto_register is True


def test_secrets_of_the_registry_are_masked():
    environment = {
        "VIRNUCPRO_SCHEMA_REGISTRY_URL": "https://alice:hush@one,https://bob:hush@two",
        "VIRNUCPRO_SCHEMA_REGISTRY_BEARER_AUTH_TOKEN": "hush",
        "VIRNUCPRO_SCHEMA_REGISTRY_PROXY": "http://u:hush@proxy",
        "VIRNUCPRO_SCHEMA_REGISTRY_TIMEOUT": "3",
    }
    shown = load_settings(environment).masked()
    assert "hush" not in json.dumps(shown)
    assert shown["VIRNUCPRO_SCHEMA_REGISTRY_URL"] == f"https://{MASK}@one,https://{MASK}@two"
    assert shown["VIRNUCPRO_SCHEMA_REGISTRY_PROXY"] == f"http://{MASK}@proxy"
    assert shown["VIRNUCPRO_SCHEMA_REGISTRY_TIMEOUT"] == "3"
    basic = {"VIRNUCPRO_SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO": "alice:hush"}
    assert "hush" not in json.dumps(load_settings(REGISTRY | basic).masked())


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("NONSENSE", "1", "Unrecognized properties: VIRNUCPRO_SCHEMA_REGISTRY_NONSENSE"),
        ("BASIC_AUTH_USER_INFO", "hush", "must be in the form"),
        ("SSL_KEY_LOCATION", "/nowhere", "VIRNUCPRO_SCHEMA_REGISTRY_SSL_KEY_LOCATION"),
        ("SSL_CA_LOCATION", "/nowhere", "No such file"),
        ("TIMEOUT", "soon", "it takes a number, 0 or more"),
        ("MAX_RETRIES", "-1", "it takes a number, 0 or more"),
    ],
)
def test_options_that_the_registrys_client_refuses_are_told_with_their_variable(option, value, says):
    (line,) = refusal(REGISTRY | {f"VIRNUCPRO_SCHEMA_REGISTRY_{option}": value})
    assert line.startswith(f"VIRNUCPRO_SCHEMA_REGISTRY_{option}")
    assert says in line
    assert "hush" not in line


def test_options_of_the_registrys_client_need_a_registry():
    assert refusal({"VIRNUCPRO_SCHEMA_REGISTRY_TIMEOUT": "1"}) == [
        "VIRNUCPRO_SCHEMA_REGISTRY_TIMEOUT needs VIRNUCPRO_SCHEMA_REGISTRY_URL: set it, or unset both"
    ]


def test_without_the_registrys_client_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "confluent_kafka.schema_registry", None)
    (line,) = refusal(REGISTRY)
    assert "pip install 'virnucpro-stream[registry]'" in line
    assert load_settings({}).schema_registry_url is None


@pytest.mark.parametrize(
    ("one", "other"), [("INPUT", "OUTPUT"), ("INPUT", "DLQ"), ("OUTPUT", "DLQ")], ids=lambda name: name
)
def test_topics_must_differ(one, other):
    (line,) = refusal({f"VIRNUCPRO_{one}_TOPIC": "same", f"VIRNUCPRO_{other}_TOPIC": "same"})
    assert f"VIRNUCPRO_{one}_TOPIC" in line
    assert f"VIRNUCPRO_{other}_TOPIC" in line


def test_kafka_options_pass_through_by_name():
    environment = {
        "VIRNUCPRO_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "VIRNUCPRO_KAFKA_SASL_USERNAME": "alice",
        "VIRNUCPRO_KAFKA_LOG_LEVEL": "7",
    }
    options = {"security.protocol": "SASL_SSL", "sasl.username": "alice", "log_level": "7"}
    assert client_options(environment | REAL) == options
    assert load_settings(environment).kafka == options


@pytest.mark.parametrize("option", OWNED)
def test_options_that_the_service_owns_are_refused(option):
    name = "VIRNUCPRO_KAFKA_" + option.upper().replace(".", "_")
    (line,) = refusal({name: "1"})
    assert line.startswith(f"{name} is refused: the option {option} is the service's own")


def test_options_that_the_client_refuses_are_told_with_their_variable():
    assert refusal({"VIRNUCPRO_KAFKA_BOOTSTRAP_SERVER": "x:1"}) == [
        "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVER is refused: "
        'the Kafka client says: No such configuration property: "bootstrap.server"'
    ]
    (line,) = refusal({"VIRNUCPRO_KAFKA_SECURITY_PROTOCOL": "tls"})
    assert line.startswith("VIRNUCPRO_KAFKA_SECURITY_PROTOCOL is refused")
    assert refusal({"VIRNUCPRO_KAFKA_": "x"})
    assert "hunter2" not in refusal({"VIRNUCPRO_KAFKA_SASL_PASWORD_SECRET": "hunter2"})[0]


def test_the_addresses_that_kubernetes_puts_into_pods_are_no_settings():
    environment = {
        "VIRNUCPRO_PORT": "tcp://10.0.0.7:8080",
        "VIRNUCPRO_SERVICE_HOST": "10.0.0.7",
        "VIRNUCPRO_SERVICE_PORT": "8080",
        "VIRNUCPRO_SERVICE_PORT_HTTP": "8080",
        "VIRNUCPRO_PORT_8080_TCP": "tcp://10.0.0.7:8080",
        "VIRNUCPRO_PORT_8080_TCP_ADDR": "10.0.0.7",
        "VIRNUCPRO_KAFKA_PORT": "tcp://10.0.0.8:9092",
        "VIRNUCPRO_KAFKA_SERVICE_HOST": "10.0.0.8",
        "VIRNUCPRO_SCHEMA_REGISTRY_SERVICE_HOST": "10.0.0.8",
        "VIRNUCPRO_SCHEMA_REGISTRY_PORT": "tcp://10.0.0.8:8081",
        "VIRNUCPRO_HTTP_PORT": "tcp://10.0.0.9:80",
    }
    assert load_settings(environment) == load_settings({})


def test_the_effective_settings_are_shown_without_secrets():
    secrets = {
        "VIRNUCPRO_KAFKA_SASL_PASSWORD": "hunter2",
        "VIRNUCPRO_KAFKA_SSL_KEY_PEM": "hunter2",
        "VIRNUCPRO_KAFKA_SSL_KEY_PASSWORD": "hunter2",
        "VIRNUCPRO_KAFKA_SSL_KEYSTORE_PASSWORD": "hunter2",
        "VIRNUCPRO_KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET": "hunter2",
        "VIRNUCPRO_KAFKA_SASL_OAUTHBEARER_CONFIG": "hunter2",
    }
    public = {
        "VIRNUCPRO_KAFKA_SASL_USERNAME": "alice",
        "VIRNUCPRO_KAFKA_SSL_KEY_LOCATION": "/keys/a.pem",
        "VIRNUCPRO_KAFKA_SSL_KEYSTORE_LOCATION": "/keys/a.p12",
    }
    shown = load_settings(secrets | public | REAL).masked()
    assert "hunter2" not in json.dumps(shown)
    assert {shown[name] for name in secrets} == {MASK}
    assert {name: shown[name] for name in public} == public
    assert shown["VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS"] == "broker:9092"
    assert shown["VIRNUCPRO_V1_ATTENTION"] is False
    assert shown["VIRNUCPRO_MAX_WAIT_MS"] == 50


def test_what_is_shown_can_be_set_again():
    shown = load_settings(REAL | {"VIRNUCPRO_TOKEN_BUDGET": "4096"}).masked()
    again = {name: str(value) for name, value in shown.items() if value is not None}
    assert load_settings(again).masked() == shown


def test_settings_are_frozen_and_built_directly_without_the_environment(monkeypatch):
    monkeypatch.setenv("VIRNUCPRO_MODEL", "other")
    settings = ServiceSettings(max_wait_ms=5)
    assert (settings.model, settings.max_wait_ms) == ("nano", 5)
    with pytest.raises(ValidationError):
        settings.model = "x"
    moved = settings.with_bootstrap("127.0.0.1:1")
    assert (moved.kafka_bootstrap_servers, moved.max_wait_ms, moved.embedded) == ("127.0.0.1:1", 5, False)
    assert ServiceSettings(kafka_bootstrap_servers="broker:9092").delivery == "exactly_once"


def test_the_new_group_protocol_takes_no_options_of_the_classic_one():
    base = {"VIRNUCPRO_KAFKA_GROUP_PROTOCOL": "consumer"}
    assert load_settings(base).kafka == {"group.protocol": "consumer"}
    with pytest.raises(SettingsError, match=r"SESSION_TIMEOUT_MS is refused.*the broker decides it"):
        load_settings(base | {"VIRNUCPRO_KAFKA_SESSION_TIMEOUT_MS": "6000"})
    with pytest.raises(SettingsError, match="GROUP_PROTOCOL is refused"):
        load_settings({"VIRNUCPRO_KAFKA_GROUP_PROTOCOL": "newest"})


OF_THE_SERVICE = sorted(
    ServiceSettings.model_fields.keys() - ModelSettings.model_fields.keys() - {"kafka", "schema_registry"}
)


@pytest.mark.parametrize("field", OF_THE_SERVICE)
def test_no_setting_of_the_service_stops_a_command_for_files_however_wrong(field):
    assert load_model_settings({f"VIRNUCPRO_{field.upper()}": "\N{SNOWMAN}"}) == ModelSettings()


@pytest.mark.parametrize("option", ["BOOTSTRAP_SERVER", "SASL_PASWORD", "GROUP_ID", "SECURITY_PROTOCOL", ""])
def test_no_option_of_the_kafka_client_stops_a_command_for_files_however_spelt(option):
    environment = {f"VIRNUCPRO_KAFKA_{option}": "nonsense"}
    assert load_model_settings(environment) == ModelSettings()
    with pytest.raises(SettingsError):
        load_settings(environment)


def test_a_command_for_files_reads_the_settings_of_the_model_as_the_service_does():
    environment = {
        "VIRNUCPRO_MODEL": "bundles/mine",
        "VIRNUCPRO_DEVICE": "cuda:1",
        "VIRNUCPRO_PRECISION": "bf16",
        "VIRNUCPRO_ATTENTION_BACKEND": "sdpa",
        "VIRNUCPRO_V1_ATTENTION": "yes",
        "VIRNUCPRO_SELF_TEST": "no",
        "VIRNUCPRO_CUDA_GRAPHS": "no",
        "VIRNUCPRO_KEEP_U": "yes",
        "VIRNUCPRO_TOKEN_BUDGET": "4096",
        "VIRNUCPRO_FRAME_CACHE": "1000",
        "VIRNUCPRO_MAX_SEQUENCE_BASES": "5000",
        "VIRNUCPRO_LOG_LEVEL": "debug",
        "VIRNUCPRO_LOG_FORMAT": "json",
    }
    found = load_model_settings(environment)
    assert found.model_dump() == load_settings(environment).model_dump(
        include=set(ModelSettings.model_fields)
    )
    assert all(getattr(found, name) != getattr(ModelSettings(), name) for name in ModelSettings.model_fields)
    assert load_model_settings(environment, model="nano", v1_attention=False).v1_attention is False


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"VIRNUCPRO_MODLE": "x"}, "unknown setting VIRNUCPRO_MODLE: did you mean VIRNUCPRO_MODEL?"),
        (
            {"VIRNUCPRO_NONSENSE": "x"},
            "unknown setting VIRNUCPRO_NONSENSE: unset it, or see docs/settings.md",
        ),
        (
            {"VIRNUCPRO_PRECISION": "fp4"},
            "VIRNUCPRO_PRECISION=fp4 is refused: it takes auto, fp32, fp16, bf16, fp8-ffn or fp8",
        ),
    ],
)
def test_a_wrong_setting_of_the_model_stops_a_command_for_files(environment, line):
    with pytest.raises(SettingsError) as refused:
        load_model_settings(environment)
    assert str(refused.value) == line


@pytest.mark.parametrize(
    "servers",
    [
        "broker:9092",
        "a:1,b:65535",
        "broker",
        "a:9092, b",
        "[::1]:9092",
        "::1",
        "[::1]",
        "SASL_SSL://broker:9092",
    ],
)
def test_addresses_of_brokers(servers):
    assert load_settings({"VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": servers}).kafka_bootstrap_servers == servers


@pytest.mark.parametrize(
    "servers",
    [
        "broker:0",
        "broker:65536",
        "broker:99999999999",
        "broker:",
        "broker:kafka",
        "a:9092,b:-1",
        "[::1]:0",
        "b:٣",
    ],
)
def test_a_port_that_cannot_be(servers):
    with pytest.raises(SettingsError, match="it takes host:port, ports 1 to 65535"):
        load_settings({"VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": servers})


class TestPriority:
    def test_it_gives_the_defaults_of_what_is_not_set(self):
        plain, latency, throughput = (
            load_settings({} if priority is None else {"VIRNUCPRO_PRIORITY": priority})
            for priority in (None, "latency", "throughput")
        )
        assert plain == load_settings({"VIRNUCPRO_PRIORITY": "balanced"})
        assert (plain.max_wait_ms, plain.commit_interval_ms, plain.token_budget) == (50, 100, None)
        assert (latency.max_wait_ms, latency.commit_interval_ms, latency.token_budget) == (5, 20, None)
        assert (throughput.max_wait_ms, throughput.commit_interval_ms) == (500, 500)
        assert (throughput.token_budget, throughput.max_inflight_records) == ("auto", 20_000)
        assert ServiceSettings(priority="latency").max_wait_ms == 5

    def test_a_setting_that_is_set_wins(self):
        settings = load_settings(
            {
                "VIRNUCPRO_PRIORITY": "throughput",
                "VIRNUCPRO_TOKEN_BUDGET": "4096",
                "VIRNUCPRO_MAX_WAIT_MS": "7",
            }
        )
        assert (settings.token_budget, settings.max_wait_ms, settings.commit_interval_ms) == (4096, 7, 500)

    @pytest.mark.parametrize("priority", PRIORITIES)
    def test_what_it_gives_are_settings_that_are_valid(self, priority):
        settings = ServiceSettings(priority=priority)
        assert {name: getattr(settings, name) for name in PRIORITIES[priority]} == PRIORITIES[priority]
        shown = load_settings({"VIRNUCPRO_PRIORITY": priority}).masked()
        assert shown["VIRNUCPRO_PRIORITY"] == priority
        assert shown["VIRNUCPRO_MAX_WAIT_MS"] == settings.max_wait_ms

    def test_another_word_is_refused(self):
        with pytest.raises(
            SettingsError, match="VIRNUCPRO_PRIORITY=speed is refused: it takes balanced, latency"
        ):
            load_settings({"VIRNUCPRO_PRIORITY": "speed"})
