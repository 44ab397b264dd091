"""A real schema registry, and Confluent's own serializers on the other side: the client, the codecs, the commands."""

from __future__ import annotations

import base64
import json
import uuid
from contextlib import ExitStack
from dataclasses import asdict

import pytest
from confluent_kafka.schema_registry import (
    Schema,
    SchemaRegistryClient,
    dual_schema_id_deserializer,
    header_schema_id_serializer,
)
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from consumer.cli.app import run
from consumer.config.settings import load_settings
from consumer.errors import ServiceError
from consumer.registry.schema_registry import RegistryRefusal
from consumer.registry.service_codec import any_decoder, open_registry, publisher_codec, service_codec
from consumer.registry.subjects import apply, look, look_at_all
from schemas import SCHEMA_NAMES, MalformedMessage, Reason, schema_json
from schemas.codecs import DependencyUnavailable
from schemas.contracts import UnusableSchema, releases
from schemas.datums import prediction_datum
from tests.support.kafka.security import make_certificates
from tests.support.messages import LETTER, PREDICTION, RECORD
from tests.support.registry import ApicurioRegistry, RegistryProxy

NAMES = {"sequence_record": "in", "prediction": "out", "dead_letter": "dlq"}


class Place:
    """Topics that no other test has, and the settings of a service with them and a registry."""

    def __init__(self, url: str) -> None:
        name = f"job-{uuid.uuid4().hex[:8]}"
        self.url = url
        self.topics = {kind: f"{name}.{topic}" for kind, topic in NAMES.items()}
        self.variables = {
            "VIRNUCPRO_SCHEMA_REGISTRY_URL": url,
            "VIRNUCPRO_INPUT_TOPIC": self.topics["sequence_record"],
            "VIRNUCPRO_OUTPUT_TOPIC": self.topics["prediction"],
            "VIRNUCPRO_DLQ_TOPIC": self.topics["dead_letter"],
            "VIRNUCPRO_STARTUP_TIMEOUT_S": "0.5",
        }

    def settings(self, **variables: str):
        return load_settings(
            self.variables | {f"VIRNUCPRO_{name}": value for name, value in variables.items()}
        )


@pytest.fixture
def place(registry: ApicurioRegistry) -> Place:
    return Place(registry.url)


@pytest.fixture
def stack():
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def theirs(registry, stack):
    """Confluent's client, straight to the registry."""
    return stack.enter_context(SchemaRegistryClient({"url": registry.url}))


def opened(settings, stack):
    registry = open_registry(settings, stack)
    assert registry is not None
    return registry


def registered(place: Place, stack):
    """The registry, with all our schemas in it."""
    registry = opened(place.settings(), stack)
    for state in look_at_all(registry, place.topics):
        apply(registry, state)
    return registry


# ---- the client ------------------------------------------------------------------------------------------------


def test_an_empty_registry_lacks_everything_and_apply_registers_it(place, stack):
    registry = opened(place.settings(), stack)
    before = look_at_all(registry, place.topics)
    assert [(state.current, state.missing) for state in before] == [
        (None, tuple(release.version for release in releases(name))) for name in SCHEMA_NAMES
    ]
    for state in before:
        apply(registry, state)
    after = look_at_all(registry, place.topics)
    assert [state.changes for state in after] == [False] * 3
    assert [state.level for state in after] == ["BACKWARD_TRANSITIVE", "FULL_TRANSITIVE", "FULL_TRANSITIVE"]
    assert [state.current.version for state in after] == [len(releases(name)) for name in SCHEMA_NAMES]
    for state in after:
        apply(registry, state)
    assert look_at_all(registry, place.topics) == after


def test_the_registry_itself_checks_each_released_version_against_all_before_it(place, stack):
    """BACKWARD for the input, FULL for the output, in the registry's own opinion, version by version."""
    registry = registered(place, stack)
    for name in SCHEMA_NAMES:
        subject = f"{place.topics[name]}-value"
        for version in registry.versions(subject):
            assert registry.is_compatible(subject, version.version, schema_json(name)), (
                name,
                version.version,
            )
        assert look(registry, name, place.topics[name]).incompatible == ()


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_the_registry_refuses_what_breaks_the_promise(place, stack, name):
    registry = registered(place, stack)
    subject = f"{place.topics[name]}-value"
    broken = json.loads(schema_json(name))
    broken["fields"].append({"name": "extra", "type": "string"})
    assert not registry.is_compatible(subject, 1, json.dumps(broken))
    with pytest.raises(RegistryRefusal, match="HTTP 409"):
        registry.register(subject, json.dumps(broken))
    shrunk = json.loads(schema_json(name))
    del shrunk["fields"][0]
    assert registry.is_compatible(subject, 1, json.dumps(shrunk)) is (name == "sequence_record")


def test_schemas_of_others_are_seen_and_todays_is_found_among_them(place, stack, theirs):
    topic = place.topics["prediction"]
    other = json.dumps({"type": "record", "name": "Other", "fields": [{"name": "a", "type": "long"}]})
    with_other_words = schema_json("prediction").replace(
        "The answer for one SequenceRecord", "Something else"
    )
    assert with_other_words != schema_json("prediction")
    for text in (other, with_other_words):
        theirs.register_schema(f"{topic}-value", Schema(text, "AVRO"))
    state = look(opened(place.settings(), stack), "prediction", topic)
    assert (state.current.version, state.foreign, state.missing) == (2, (1,), ())


def test_schemas_by_id_and_what_is_not_there(place, stack, theirs):
    registry = registered(place, stack)
    (version, *_) = registry.versions(f"{place.topics['sequence_record']}-value")
    assert registry.schema(version.schema_id)["name"] == "SequenceRecord"
    with pytest.raises(LookupError):
        registry.schema(999_999)
    assert registry.versions("nothing-value") == []
    json_schema = Schema('{"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}', "JSON")
    with pytest.raises(UnusableSchema, match="of the type JSON"):
        registry.schema(theirs.register_schema(f"{place.topics['prediction']}.json-value", json_schema))


def test_a_guid_where_the_registry_has_none_is_an_outage_and_not_a_missing_schema(place, stack):
    """Apicurio knows no GUIDs: its 404 has another code, and says nothing about the schema."""
    with pytest.raises(DependencyUnavailable):
        opened(place.settings(), stack).schema(uuid.uuid4())


def test_basic_auth_a_bearer_token_and_tls_reach_the_registry(registry, stack, tmp_path):
    certificates = make_certificates(tmp_path)
    with RegistryProxy(registry.url, certificates.certificate, certificates.key) as proxy:
        place = Place(proxy.url)
        basic = {"SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO": "alice:hush"}
        bearer = {"SCHEMA_REGISTRY_BEARER_AUTH_TOKEN": "hush-token"}
        trust = {"SCHEMA_REGISTRY_SSL_CA_LOCATION": str(certificates.ca)}
        encoded = base64.b64encode(b"alice:hush").decode()
        for wanted, given in ((f"Basic {encoded}", basic), ("Bearer hush-token", bearer)):
            proxy.authorization = wanted
            assert opened(place.settings(**given, **trust), stack).versions("none-value") == []
            for wrong in ({}, basic if given is bearer else bearer):
                with pytest.raises(DependencyUnavailable, match="401"):
                    opened(place.settings(**wrong, **trust), stack).versions("none-value")
        in_the_url = Place(proxy.url.replace("//", "//alice:hush@"))
        proxy.authorization = f"Basic {encoded}"
        client = opened(in_the_url.settings(**trust), stack)
        assert client.versions("none-value") == []
        assert "hush" not in client.address
        for wrong_trust in ({}, {"SCHEMA_REGISTRY_SSL_CA_LOCATION": str(certificates.wrong_ca)}):
            with pytest.raises(DependencyUnavailable, match=r"(?i)certificate") as said:
                opened(in_the_url.settings(**wrong_trust), stack).versions("none-value")
            assert "hush" not in str(said.value)


# ---- both directions with Confluent's serializers -------------------------------------------------------------------


def context(topic: str, headers: list | None = None) -> SerializationContext:
    return SerializationContext(topic, MessageField.VALUE, headers)


NO_REGISTRATION = {"auto.register.schemas": False, "use.latest.version": True}


def test_what_confluents_serializer_writes_the_service_reads(place, stack, theirs):
    registry = registered(place, stack)
    topic = place.topics["sequence_record"]
    serialize = AvroSerializer(theirs, conf=NO_REGISTRATION)
    value = serialize(asdict(RECORD), context(topic))
    assert value[:1] == b"\x00"
    assert service_codec(place.settings(), registry).decode_record(value, ()) == RECORD


def test_what_the_service_writes_confluents_deserializer_reads(place, stack, theirs):
    registry = registered(place, stack)
    codec = service_codec(place.settings(), registry)
    deserialize = AvroDeserializer(theirs)
    for encoded, topic, datum in (
        (codec.encode_prediction(PREDICTION), "prediction", prediction_datum(PREDICTION)),
        (codec.encode_dead_letter(LETTER), "dead_letter", asdict(LETTER)),
    ):
        assert encoded.headers == ()
        assert deserialize(encoded.value, context(place.topics[topic])) == datum
    published = publisher_codec(place.settings(), registry, place.topics["sequence_record"], 1.0)
    encoded = published.encode_record(RECORD)
    assert deserialize(encoded.value, context(place.topics["sequence_record"])) == asdict(RECORD)


def test_the_schema_id_in_a_header_in_both_directions(registry, stack):
    with RegistryProxy(registry.url) as proxy:
        place = Place(proxy.url)
        client = registered(place, stack)
        theirs = stack.enter_context(SchemaRegistryClient({"url": proxy.url}))
        codec = service_codec(place.settings(OUTPUT_FRAMING="confluent_header"), client)
        header_in = {"schema.id.serializer": header_schema_id_serializer}
        serialize = AvroSerializer(theirs, conf=NO_REGISTRATION | header_in)
        headers: list = [("trace", b"1")]
        value = serialize(asdict(RECORD), context(place.topics["sequence_record"], headers))
        assert headers[1][0] == "__value_schema_id"
        assert codec.decode_record(value, tuple(headers)) == RECORD
        with pytest.raises(MalformedMessage):
            codec.decode_record(value, ())

        header_out = {"schema.id.deserializer": dual_schema_id_deserializer}
        deserialize = AvroDeserializer(theirs, conf=header_out)
        encoded = codec.encode_prediction(PREDICTION)
        ours = context(place.topics["prediction"], list(encoded.headers))
        assert deserialize(encoded.value, ours) == prediction_datum(PREDICTION)
        assert any_decoder(client).decode_prediction(*encoded) == PREDICTION


def test_a_newer_and_an_older_writer_are_resolved_to_todays_schema(place, stack, theirs):
    registry = registered(place, stack)
    topic = place.topics["sequence_record"]
    newer = json.loads(schema_json("sequence_record"))
    newer["fields"].append({"name": "taxon", "type": ["null", "long"], "default": None})
    older = json.loads(schema_json("sequence_record"))
    older["fields"] = older["fields"][:2]
    codec = service_codec(place.settings(), registry)
    for schema, datum in ((newer, asdict(RECORD) | {"taxon": 10239}), (older, {"id": "x", "sequence": "A"})):
        serialize = AvroSerializer(
            theirs, json.dumps(schema), conf={"subject.name.strategy": lambda *_: f"{topic}.b"}
        )
        record = codec.decode_record(serialize(datum, context(topic)), ())
        assert (record.id, record.sequence) == (datum["id"], datum["sequence"])


def test_an_id_that_the_registry_lacks_and_a_schema_of_something_else_are_unknown(place, stack, theirs):
    codec = service_codec(place.settings(), registered(place, stack))
    other = Schema(
        json.dumps({"type": "record", "name": "Other", "fields": [{"name": "a", "type": "long"}]}), "AVRO"
    )
    foreign = theirs.register_schema(f"{place.topics['prediction']}.other-value", other)
    for schema_id in (999_999, foreign):
        with pytest.raises(MalformedMessage) as refused:
            codec.decode_record(b"\x00" + schema_id.to_bytes(4, "big") + b"\x02", ())
        assert refused.value.reason is Reason.UNKNOWN_SCHEMA


# ---- the start -----------------------------------------------------------------------------------------------------


def test_without_our_schemas_in_the_registry_the_start_is_refused_with_the_cure(place, stack):
    registry = opened(place.settings(), stack)
    with pytest.raises(ServiceError, match=r"does not have today's prediction.*virnucpro schemas register"):
        service_codec(place.settings(), registry)
    assert look_at_all(registry, place.topics)[1].current is None, "nothing was registered"


def test_the_start_registers_them_where_that_is_asked_for(place, stack):
    settings = place.settings(SCHEMA_REGISTRY_AUTO_REGISTER="yes")
    registry = opened(settings, stack)
    assert service_codec(settings, registry).encode_prediction(PREDICTION).value[:1] == b"\x00"
    assert [state.current is None for state in look_at_all(registry, place.topics)] == [True, False, False]


@pytest.mark.parametrize("variables", [{"OUTPUT_FRAMING": "single_object"}, {"OUTPUT_FORMAT": "json"}])
def test_answers_that_need_no_registered_schema_need_no_registration(place, stack, variables):
    settings = place.settings(**variables)
    codec = service_codec(settings, opened(settings, stack))
    assert codec.encode_prediction(PREDICTION).value[:1] != b"\x00"


def test_a_registry_without_guids_is_refused_for_the_header_form(place, stack):
    registry = registered(place, stack)
    with pytest.raises(ServiceError, match="no GUID: set VIRNUCPRO_OUTPUT_FRAMING=confluent"):
        service_codec(place.settings(OUTPUT_FRAMING="confluent_header"), registry)


def test_a_registry_that_is_down_at_the_start_is_waited_for_and_then_named(registry, stack):
    with RegistryProxy(registry.url) as proxy:
        place = Place(proxy.url)
        registered(place, stack)
        settings = place.settings()
        client = opened(settings, stack)
        proxy.answer = (503, b"busy")
        with pytest.raises(ServiceError, match=r"does not answer.*HTTP 503.*VIRNUCPRO_SCHEMA_REGISTRY_URL"):
            service_codec(settings, client)
        assert len(proxy.requests) > 1


# ---- the commands --------------------------------------------------------------------------------------------------


@pytest.fixture
def virnucpro(place, monkeypatch, capsys):
    """Runs a command with the settings of the test's place: exit code, stdout, stderr."""
    for name, value in place.variables.items():
        monkeypatch.setenv(name, value)

    def command(*arguments: str) -> tuple[int, str, str]:
        code = run(["schemas", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return command


def test_check_fails_then_register_shows_then_does_it_then_check_passes(virnucpro, place, theirs):
    code, out, err = virnucpro("check")
    assert code == 1
    assert f"{place.topics['prediction']}-value: today's prediction is not registered" in out
    assert "virnucpro schemas register --apply" in err

    code, out, err = virnucpro("register")
    assert code == 0
    assert (
        f"{place.topics['prediction']}-value: would set the compatibility level FULL_TRANSITIVE "
        "(now the registry's own); would register version 1 of prediction"
    ) in out
    assert "nothing was changed" in err
    assert not [
        subject for subject in theirs.get_subjects() if subject.startswith(place.topics["prediction"])
    ]

    code, out, _ = virnucpro("register", "--apply")
    assert code == 0
    assert f"{place.topics['prediction']}-value: set the compatibility level FULL_TRANSITIVE" in out
    assert theirs.get_versions(f"{place.topics['prediction']}-value") == [
        release.version for release in releases("prediction")
    ]
    code, out, _ = virnucpro("check")
    assert code == 0
    assert f"{place.topics['dead_letter']}-value: version {len(releases('dead_letter'))}, id " in out
    assert virnucpro("register")[1].count("nothing to change") == 3


def test_json_of_the_commands_holds_the_same(virnucpro, place):
    code, out, _ = virnucpro("check", "--json")
    assert code == 1
    found = json.loads(out)
    assert found["ok"] is False
    assert len(found["problems"]) == 3
    code, out, _ = virnucpro("register", "--json")
    plan = json.loads(out)
    assert (code, plan["applied"]) == (0, False)
    assert [subject["missing"] for subject in plan["subjects"]] == [
        [release.version for release in releases(name)] for name in SCHEMA_NAMES
    ]
    code, out, _ = virnucpro("register", "--apply", "--keep-level", "--json")
    done = json.loads(out)
    assert (code, done["applied"]) == (0, True)
    (prediction,) = [each for each in done["subjects"] if each["schema"] == "prediction"]
    assert prediction["subject"] == f"{place.topics['prediction']}-value"
    assert (prediction["missing"], prediction["level"]) == ([], "NONE")
    assert prediction["changes"][-1] == f"register version {len(releases('prediction'))} of prediction"
    assert json.loads(virnucpro("check", "--json")[1])["ok"] is True


def test_a_registry_that_does_not_answer_is_one_line(virnucpro, monkeypatch):
    monkeypatch.setenv("VIRNUCPRO_SCHEMA_REGISTRY_URL", "http://u:hush@127.0.0.1:9")
    for command in ("check", "register"):
        code, _, err = virnucpro(command)
        assert code == 1
        (line,) = err.splitlines()
        assert line.startswith(
            "virnucpro: error: the schema registry at http://********@127.0.0.1:9 does not answer"
        )
        assert "hush" not in line


def test_an_incompatible_subject_is_told_by_check_and_refused_by_register(virnucpro, place, theirs):
    subject = f"{place.topics['dead_letter']}-value"
    other = json.loads(schema_json("dead_letter"))
    other["fields"].append({"name": "extra", "type": "long"})
    theirs.register_schema(subject, Schema(json.dumps(other), "AVRO"))
    theirs.set_compatibility(subject, "FULL_TRANSITIVE")
    code, out, _ = virnucpro("check")
    assert code == 1
    assert "the registry finds today's dead_letter incompatible with version 1" in out
    code, _, err = virnucpro("register", "--apply")
    assert code == 1
    assert "refuses it: HTTP 409" in err
