"""The codecs that the settings ask for: which formats and framings are read, and which is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

import structlog

from consumer.clock import Deadline
from consumer.config.registry_options import masked_url, new_registry_client
from consumer.config.settings import ServiceSettings
from consumer.errors import ServiceError
from consumer.registry.schema_registry import Registered, SchemaRegistry
from consumer.registry.subjects import find, subject_of
from consumer.registry.writer_schemas import WriterSchemas
from schemas import SchemaName, schema_json
from schemas.codecs import (
    AvroCodec,
    Codec,
    Decoder,
    DependencyUnavailable,
    EitherDecoder,
    Encoder,
    Frame,
    JsonCodec,
    RecordDecoder,
    RecordEncoder,
    TwoFormatCodec,
    confluent_frame,
    header_frame,
)
from schemas.contracts import contract

log = structlog.get_logger(__name__)

T = TypeVar("T")

_RETRY_S = 0.5


def open_registry(settings: ServiceSettings, stack: ExitStack) -> SchemaRegistry | None:
    """The registry of the settings; None where they name none. Nothing is asked of it yet.

    Raises:
        SettingsError: its client is not installed, or refuses an option.
    """
    if settings.schema_registry_url is None:
        return None
    client = new_registry_client(settings.schema_registry_url, settings.schema_registry)
    from consumer.registry.confluent import ConfluentRegistry

    registry = ConfluentRegistry(client, masked_url(settings.schema_registry_url))
    stack.callback(registry.close)
    return registry


def service_codec(settings: ServiceSettings, registry: SchemaRegistry | None) -> Codec:
    """Reads the service's input, writes its answers.

    Raises:
        ServiceError: the registry lacks a schema, or does not answer within VIRNUCPRO_STARTUP_TIMEOUT_S.
    """
    topics: dict[SchemaName, str] = {
        "prediction": settings.output_topic,
        "dead_letter": settings.dlq_topic,
    }
    frames = frames_for(settings, registry, topics, settings.startup_timeout_s)
    avro = AvroCodec(_writer_schemas(registry), frames)
    encoders: dict[str, Encoder] = {"avro": avro, "json": JsonCodec()}
    return TwoFormatCodec(record_decoder(settings, registry), encoders[settings.output_format])


def record_decoder(settings: ServiceSettings, registry: SchemaRegistry | None) -> RecordDecoder:
    """Reads the service's input."""
    avro, json = AvroCodec(_writer_schemas(registry)), JsonCodec()
    decoders: dict[str, RecordDecoder] = {"avro": avro, "json": json, "auto": EitherDecoder(avro, json)}
    return decoders[settings.input_format]


def publisher_codec(
    settings: ServiceSettings, registry: SchemaRegistry | None, topic: str, timeout: float
) -> RecordEncoder:
    """Writes what a service with the same settings reads.

    Raises:
        ServiceError: as `service_codec`, after `timeout` seconds.
    """
    if settings.input_format == "json":
        return JsonCodec()
    return AvroCodec(frames=frames_for(settings, registry, {"sequence_record": topic}, timeout))


def any_decoder(registry: SchemaRegistry | None) -> Decoder:
    """Reads every format and framing that the service can write."""
    return EitherDecoder(AvroCodec(_writer_schemas(registry)), JsonCodec())


def frames_for(
    settings: ServiceSettings,
    registry: SchemaRegistry | None,
    topics: Mapping[SchemaName, str],
    timeout: float,
) -> dict[SchemaName, Frame]:
    """The framing of each message by the settings; none stands for single-object encoding.

    Raises:
        ServiceError: the registry lacks a schema, or does not answer within `timeout` seconds.
    """
    if registry is None or settings.framing == "single_object" or settings.output_format == "json":
        return {}
    frames: dict[SchemaName, Frame] = {}
    deadline = Deadline.after(timeout)
    for name, topic in topics.items():
        found = _answered(partial(_registered, settings, registry, name, topic), registry, deadline)
        log.info(
            "schema_registered",
            subject=subject_of(topic),
            version=found.version,
            schema_id=found.schema_id,
            registry=registry.address,
        )
        frames[name] = _frame(settings, registry, found)
    return frames


def _writer_schemas(registry: SchemaRegistry | None) -> WriterSchemas | None:
    return None if registry is None else WriterSchemas(registry)


def _registered(
    settings: ServiceSettings, registry: SchemaRegistry, name: SchemaName, topic: str
) -> Registered:
    """The version of the topic's subject that is today's schema."""
    subject, fingerprint = subject_of(topic), contract(name).fingerprint
    found = find(registry, subject, fingerprint)
    if found is None and settings.schema_registry_auto_register:
        registry.register(subject, schema_json(name))
        found = find(registry, subject, fingerprint)
    if found is None:
        raise ServiceError(
            f"the schema registry at {registry.address} does not have today's {name} under the subject {subject}: "
            "see `virnucpro schemas register`, or set VIRNUCPRO_OUTPUT_FRAMING=single_object"
        )
    return found


def _frame(settings: ServiceSettings, registry: SchemaRegistry, found: Registered) -> Frame:
    if settings.framing == "confluent":
        return confluent_frame(found.schema_id)
    if found.guid is None:
        raise ServiceError(
            f"the schema registry at {registry.address} gives schemas no GUID: set VIRNUCPRO_OUTPUT_FRAMING=confluent"
        )
    return header_frame(found.guid)


def _answered(call: Callable[[], T], registry: SchemaRegistry, deadline: Deadline) -> T:
    """Repeat a call until the registry answers."""
    reported = False
    while True:
        try:
            return call()
        except DependencyUnavailable as error:
            if deadline.expired:
                raise ServiceError(
                    f"{error}: check VIRNUCPRO_SCHEMA_REGISTRY_URL, its credentials and that it is up"
                ) from error
            if not reported:
                log.warning("schema_registry_awaited", registry=registry.address, reason=str(error))
                reported = True
            time.sleep(min(_RETRY_S, deadline.remaining()))
