"""What may be shown of the Kafka client's options, decided by their kind."""

from __future__ import annotations

import pytest

from consumer.cli.error_messages import print_error
from consumer.config import secrets
from consumer.config.environment import client_options, option_variable
from consumer.config.secrets import MASK, hide, masked_option, redacted
from consumer.config.settings import SettingsError, load_settings
from consumer.ops.monitor import Monitor

SECRET = "hunter2-8f3a"
HIDDEN = [
    "sasl.password",
    "ssl.key.password",
    "ssl.keystore.password",
    "ssl.key.pem",
    "ssl.certificate.pem",
    "ssl.ca.pem",
    "https.ca.pem",
    "sasl.kerberos.kinit.cmd",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.extensions",
    "sasl.oauthbearer.token.endpoint.url",
    "sasl.oauthbearer.assertion.private.key.passphrase",
    "sasl.oauthbearer.assertion.private.key.pem",
]
SHOWN = {
    "security.protocol": "sasl_ssl",
    "sasl.mechanism": "SCRAM-SHA-512",
    "sasl.username": "alice",
    "sasl.kerberos.principal": "alice@EXAMPLE.ORG",
    "ssl.ca.location": "/etc/ca.pem",
    "ssl.key.location": "/keys/a.pem",
    "ssl.keystore.location": "/keys/a.p12",
    "enable.ssl.certificate.verification": "true",
    "fetch.max.bytes": "16384",
    "client.rack": "eu-1a",
    "debug": "security,broker",
}


@pytest.fixture(autouse=True)
def nothing_is_hidden(monkeypatch):
    monkeypatch.setattr(secrets, "_hidden", set())


@pytest.mark.parametrize("option", HIDDEN)
def test_free_text_is_hidden_wherever_it_would_be_shown(option, capsys):
    environment = {option_variable(option): f"https://user:{SECRET}@x/?k=1"}
    shown = load_settings(environment).masked()
    assert shown[option_variable(option)] == MASK
    monitor = Monitor(shown)
    monitor.batch_failed(f"https://user:{SECRET}@x/?k=1 cannot be reached")
    assert SECRET not in repr(monitor.snapshot())
    print_error(f"the Kafka client cannot go on (no token from user:{SECRET} at x)")
    assert SECRET not in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), SHOWN.items())
def test_numbers_words_paths_and_names_are_shown(option, value):
    assert load_settings({option_variable(option): value}).masked()[option_variable(option)] == value
    assert redacted(f"{option} {value}") == f"{option} {value}"


def test_an_option_that_was_not_thought_of_is_hidden_unless_the_client_takes_no_free_text(monkeypatch):
    monkeypatch.setattr("consumer.kafka.librdkafka.option_problem", lambda option, value: None)
    secrets._is_free_text.cache_clear()
    assert masked_option("some.new.option", SECRET) == MASK
    secrets._is_free_text.cache_clear()


@pytest.mark.parametrize(
    "servers",
    [
        f"sasl_ssl://alice:{SECRET}@broker:9092",
        f"alice:{SECRET}@broker:9092",
        f"a:9092,b:{SECRET}",
        f"broker:9092?password={SECRET}",
        f"broker:9092/{SECRET}",
        f"broker:9092;password={SECRET}",
        f"broker {SECRET}",
        f"alice:{SECRET}:9092",
    ],
)
def test_a_secret_among_the_addresses_of_brokers_is_refused_and_not_shown(servers):
    with pytest.raises(SettingsError) as refused:
        load_settings({"VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS": servers})
    (line,) = str(refused.value).split("\n")
    assert SECRET not in line
    assert line.startswith("VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS is refused")
    assert "VIRNUCPRO_KAFKA_SASL_PASSWORD" in line


@pytest.mark.parametrize(
    "name", ["SASL_JAAS_CONFIG", "SASL_PASWORD", "SSL_KEY", "SSL_CERTIFICATE", "PASSWORD"]
)
def test_an_option_that_is_refused_shows_no_value(name):
    with pytest.raises(SettingsError) as refused:
        client_options({f"VIRNUCPRO_KAFKA_{name}": f'Login required password="{SECRET}";'})
    assert SECRET not in str(refused.value)


def test_the_parts_of_a_command_that_are_no_options_are_hidden_alone():
    hide(f"echo {SECRET} | kinit -t %{{sasl.kerberos.keytab}} -k")
    assert redacted(f"failed: echo {SECRET} | kinit -t /etc/key -k") == f"failed: {MASK} /etc/key -k"


def test_text_too_short_to_be_told_from_words_is_left():
    hide("ok")
    assert redacted("ok") == "ok"
