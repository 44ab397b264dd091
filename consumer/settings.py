"""The service's settings: one model, filled from `VIRNUCPRO_*` variables, checked before anything starts.

Every setting has a default that works on the embedded broker. What is unknown, misspelt or contradictory is
refused in one line that names the variable and what it takes. docs/settings.md explains each one.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from consumer.kafka_options import option_name, option_refused, option_value_shown

PREFIX = "VIRNUCPRO_"
KAFKA_PREFIX = "VIRNUCPRO_KAFKA_"
EMBEDDED = "embedded"

_SWITCH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
# Kubernetes puts the addresses of the Services of a namespace into every pod, so one that is called virnucpro
# or virnucpro-kafka gives variables with our prefix. They are no settings.
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_[A-Z0-9_]+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
_SERVICE_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")


class SettingsError(ValueError):
    """The settings can't be used; one line for each problem, naming its variable and what that takes."""


def _switch(value: object) -> object:
    """The one way to write yes and no; a bool from Python passes."""
    if isinstance(value, str):
        if value.lower() not in _SWITCH:
            raise ValueError("no switch")
        return _SWITCH[value.lower()]
    return value


def _topic(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name) or name in (".", ".."):
        raise ValueError("no topic name")
    return name


def _no_registry(value: str | None) -> str | None:
    if value is not None:
        raise ValueError("not built")
    return value


Switch = Annotated[bool, BeforeValidator(_switch)]
Topic = Annotated[str, AfterValidator(_topic)]
Name = Annotated[str, Field(min_length=1)]
Delivery = Literal["exactly_once", "at_least_once"]
Precision = Literal["auto", "fp32", "fp16", "bf16"]
AttentionBackend = Literal["auto", "flash_attn", "varlen", "sdpa"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "console", "json"]

_A_TOPIC = "a topic name: up to 249 of A-Z a-z 0-9 . _ -"
_A_SWITCH = "1, true, yes or on; or 0, false, no or off"


def _setting(default: Any, takes: str, **limits: Any) -> Any:
    """A field whose description is what the variable takes, as error messages say it."""
    if callable(default):
        return Field(default_factory=default, description=takes, **limits)
    return Field(default, description=takes, **limits)


class Settings(BaseModel):
    """All settings of the service; the variable of a field is its name in capitals after `VIRNUCPRO_`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kafka_bootstrap_servers: Name = _setting(EMBEDDED, "host:port, several with commas, or embedded")
    kafka: dict[str, str] = Field(default_factory=dict, description="further options of the Kafka client")
    input_topic: Topic = _setting("sequences", _A_TOPIC)
    output_topic: Topic = _setting("predictions", _A_TOPIC)
    dlq_topic: Topic = _setting("sequences.dlq", _A_TOPIC)
    group_id: Name = _setting("virnucpro", "the name of a consumer group")
    instance_id: Name = _setting(socket.gethostname, "a name that no other member of the group has")
    delivery: Delivery = _setting("exactly_once", "exactly_once or at_least_once")
    schema_registry_url: Annotated[str | None, AfterValidator(_no_registry)] = _setting(
        None, "nothing yet: a schema registry is not built yet, so leave it unset"
    )

    model: Name = _setting("nano", "nano, or the path of a model bundle")
    device: str = _setting("auto", "auto, cpu, cuda or cuda:N", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    precision: Precision = _setting("auto", "auto, fp32, fp16 or bf16")
    v1_attention: Annotated[bool | None, BeforeValidator(_switch)] = _setting(None, _A_SWITCH)
    attention_backend: AttentionBackend = _setting("auto", "auto, flash_attn, varlen or sdpa")
    self_test: Switch = _setting(True, _A_SWITCH)

    token_budget: int | None = _setting(None, "a whole number of tokens in a batch, 1 or more", ge=1)
    max_wait_ms: int = _setting(50, "a whole number of milliseconds, 0 to 60000", ge=0, le=60_000)
    prepare_threads: int = _setting(1, "a whole number of threads, 1 to 64", ge=1, le=64)
    max_sequence_bases: int = _setting(1_000_000, "a whole number of bases, 1 or more", ge=1)
    max_message_bytes: int = _setting(
        4_194_304, "a whole number of bytes, 1000 to 900000000", ge=1000, le=900_000_000
    )
    max_inflight_records: int = _setting(2000, "a whole number of records, 1 or more", ge=1)
    max_inflight_bytes: int = _setting(67_108_864, "a whole number of bytes, 1 or more", ge=1)
    commit_interval_ms: int = _setting(100, "a whole number of milliseconds, 0 to 60000", ge=0, le=60_000)
    startup_timeout_s: float = _setting(30.0, "a number of seconds, more than 0", gt=0)
    drain_timeout_s: float = _setting(25.0, "a number of seconds, 0 or more", ge=0)

    http_host: Name = _setting("0.0.0.0", "an address of this machine; 0.0.0.0 is all of them")
    http_port: int = _setting(8080, "a port, 1 to 65535, or 0 for any free one", ge=0, le=65_535)
    log_level: LogLevel = _setting("info", "debug, info, warning or error")
    log_format: LogFormat = _setting("auto", "auto, console or json")

    @property
    def embedded(self) -> bool:
        """Whether the service brings its own broker."""
        return self.kafka_bootstrap_servers == EMBEDDED

    def with_bootstrap(self, bootstrap_servers: str) -> Self:
        """The same settings with the address that the embedded broker got."""
        return self.model_copy(update={"kafka_bootstrap_servers": bootstrap_servers})

    def masked(self) -> dict[str, Any]:
        """Variable -> value in effect, secrets masked; None where a default depends on the device or bundle."""
        shown = {variable(name): getattr(self, name) for name in type(self).model_fields if name != "kafka"}
        options = {variable("kafka_" + _suffix(name)): option_value_shown(name, value) for name, value in self.kafka.items()}
        return dict(sorted((shown | options).items()))


def variable(field: str) -> str:
    """The environment variable of a field."""
    return PREFIX + field.upper()


def _suffix(option: str) -> str:
    return option.replace(".", "_")
