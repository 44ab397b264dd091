"""Settings, filled from `VIRNUCPRO_*` variables and checked before anything starts.

`ModelSettings` are what a command for files needs; `ServiceSettings` add Kafka and the running service. A command for
files reads the first alone: it does not load the Kafka client, and no service setting stops it, not even a wrong one.

Every setting has a default that works on the embedded broker. What is unknown, misspelt or contradictory is refused in
one line that names the variable and what it takes. docs/settings.md explains each one.

The variables are read here and not by pydantic-settings: that reports a wrong value in several lines, in terms of
fields instead of variables, passes over unknown variables, and has no place for `VIRNUCPRO_KAFKA_<OPTION>`, whose names
librdkafka decides.
"""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from consumer.config.environment import (
    KAFKA_PREFIX,
    PREFIX,
    SettingsError,
    client_options,
    option_variable,
    prefixed,
)
from consumer.config.priority import Priority, preferred
from consumer.config.registry_options import (
    REGISTRY_PREFIX,
    REGISTRY_URL,
    close_registry_client,
    hide_credentials,
    masked_registry_option,
    masked_url,
    new_registry_client,
    registry_options,
    registry_variable,
)
from consumer.config.secrets import masked_option
from virnucpro_core.options import (
    AUTO,
    BACKEND_CHOICES,
    DEVICE_PATTERN,
    DEVICES,
    PRECISION_CHOICES,
    BackendChoice,
    PrecisionChoice,
    one_of,
)

__all__ = [
    "EMBEDDED",
    "ModelSettings",
    "ServiceSettings",
    "SettingsError",
    "load_model_settings",
    "load_settings",
    "unambiguous_id",
]

EMBEDDED = "embedded"
_SHOWN_LETTERS = 60
_PASSED_THROUGH = ("kafka", "schema_registry")
"""Fields that hold the options of a client, each of which has its own variable."""
_SWITCH = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("0", "false", "no", "off"), False)


def _refuse(message: str) -> PydanticCustomError:
    """An error whose message is a whole sentence; other errors are rendered from the field's description."""
    return PydanticCustomError("refused", "{message}", {"message": message})


def _switch(value: object) -> object:
    if isinstance(value, str):
        if value.lower() not in _SWITCH:
            raise ValueError("not a switch")
        return _SWITCH[value.lower()]
    return value


def _topic(name: str, info: ValidationInfo) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name) or name in (".", ".."):
        raise ValueError("not a topic name")
    for other in ("input_topic", "output_topic"):
        if other != info.field_name and info.data.get(other) == name:
            raise _refuse(
                f"{_variable(other)} and {_variable(str(info.field_name))} are both {name}: name two topics"
            )
    return name


def _min_insync(replicas: int | None, info: ValidationInfo) -> int | None:
    copies = info.data.get("topic_replication")
    if replicas is not None and copies is not None and replicas > copies:
        raise _refuse(
            f"VIRNUCPRO_TOPIC_MIN_INSYNC_REPLICAS={replicas} is more than VIRNUCPRO_TOPIC_REPLICATION={copies}: "
            "no message could be written; lower it"
        )
    return replicas


def unambiguous_id(group_id: str, instance_id: str) -> str:
    """One name for a group and an instance, which no other two have; it begins with the group, for prefixed rights.

    The last dot stands between the two: dots of the instance id are escaped, as `%2E`.
    """
    escaped = instance_id.replace("%", "%25").replace(".", "%2E")
    return f"{group_id}.{escaped}"


_ADDRESS = re.compile(r"(\w+://)?(?P<host>\[[^\]@/]+\]|[\w.-]*)(:(?P<port>[0-9]+))?")
_BARE_IPV6 = re.compile(r"(\w+://)?[0-9A-Fa-f:.]+(%\w+)?")


def _bootstrap(servers: str) -> str:
    """Check the ports, which librdkafka takes from any number; hosts are checked when they are looked up.

    What is more than hosts and ports (a user, a password, a path) is not shown.
    """
    for server in map(str.strip, servers.split(",")):
        if _BARE_IPV6.fullmatch(server) and server.count(":") > 1:
            continue
        address = _ADDRESS.fullmatch(server)
        if address is None:
            raise _refuse(
                f"VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS is refused (not shown, it may hold a secret): it takes {_SERVERS}; "
                "a user and a password go into VIRNUCPRO_KAFKA_SASL_USERNAME and VIRNUCPRO_KAFKA_SASL_PASSWORD"
            )
        if address["port"] is not None and not 1 <= int(address["port"][:6]) <= 65_535:
            raise ValueError("no port")
    return servers


def _registry_url(url: str | None) -> str | None:
    for each in (url or "").split(",") if url is not None else ():
        if not re.match(r"https?://[^/\s]", each.strip()):
            raise ValueError("not an address")
    return url


def _framing(wanted: str, info: ValidationInfo) -> str:
    if wanted == "auto":
        return wanted
    if info.data.get("output_format") == "json":
        raise _refuse(
            f"VIRNUCPRO_OUTPUT_FRAMING={wanted} is refused: JSON has no framing, unset it or set "
            "VIRNUCPRO_OUTPUT_FORMAT=avro"
        )
    if wanted != "single_object" and info.data.get("schema_registry_url", "") is None:
        raise _refuse(
            f"VIRNUCPRO_OUTPUT_FRAMING={wanted} needs a schema registry: set {REGISTRY_URL}, or "
            "VIRNUCPRO_OUTPUT_FRAMING=single_object"
        )
    return wanted


def _delivery(wanted: str, info: ValidationInfo) -> str:
    if wanted == "exactly_once" and info.data.get("kafka_bootstrap_servers") == EMBEDDED:
        raise _refuse(
            "VIRNUCPRO_DELIVERY=exactly_once needs a real broker, the embedded one has no transactions: set "
            "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS, or VIRNUCPRO_DELIVERY=at_least_once"
        )
    return wanted


def _default_delivery(data: dict[str, Any]) -> str:
    return "at_least_once" if data.get("kafka_bootstrap_servers", EMBEDDED) == EMBEDDED else "exactly_once"


def _state_dir() -> str:
    return str(Path(tempfile.gettempdir()) / f"virnucpro-{os.getuid()}")


Switch = Annotated[bool, BeforeValidator(_switch)]
Topic = Annotated[str, AfterValidator(_topic)]
Name = Annotated[str, Field(min_length=1)]
# Printable ASCII: the Kafka client hands other group ids to no transaction, and the broker makes the member's id of
# the instance id.
KafkaId = Annotated[str, Field(pattern=r"\A[ -~]{1,249}\z")]
Delivery = Literal["exactly_once", "at_least_once"]
InputFormat = Literal["avro", "json", "auto"]
OutputFormat = Literal["avro", "json"]
Framing = Literal["single_object", "confluent", "confluent_header"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "console", "json"]

_SERVERS = "host:port, ports 1 to 65535, several with commas, or embedded"
_TOPIC = "a topic name: 1 to 249 of A-Z a-z 0-9 . _ -"
_YES_NO = "1, true, yes or on; or 0, false, no or off"
_MILLISECONDS = "a whole number of milliseconds, 0 to 60000"


class ModelSettings(BaseModel):
    """What a command for files needs. The variable of a field is its name in capitals after `VIRNUCPRO_`; a field's
    description is what the variable takes. Building one directly checks it too, and raises pydantic's
    ValidationError.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: Name = Field("nano", description="nano, or the path of a model bundle")
    """The model bundle that scores."""
    device: str = Field(AUTO, description=DEVICES, pattern=DEVICE_PATTERN)
    """Where it runs; `auto` takes a GPU if there is one."""
    precision: PrecisionChoice = Field("auto", description=one_of(PRECISION_CHOICES))
    """Number format of the forward pass; `auto` is fp16 on a GPU, fp32 on a CPU. `fp8` and `fp8-ffn` are faster and
    less exact; they need a GPU of compute capability 9.0 or higher and the packed attention."""
    v1_attention: Annotated[bool | None, BeforeValidator(_switch)] = Field(None, description=_YES_NO)
    """Standard attention, compatible with VirNucPro 1.0, instead of the packed one: slower."""
    attention_backend: BackendChoice = Field("auto", description=one_of(BACKEND_CHOICES))
    """A back-end asked for by name is never replaced by another: if it cannot serve, the start fails."""
    self_test: Switch = Field(True, description=_YES_NO)
    """At the start, compare the chosen attention with the standard one on a few proteins."""
    cuda_graphs: Switch = Field(True, description=_YES_NO)
    """On a GPU, record the forwards of small and of full batches at the start, and launch each in one call: the same
    results, sooner."""
    keep_u: Switch = Field(False, description=_YES_NO)
    """Do not read U as T: a codon with a U is dropped, as in VirNucPro, so that RNA has hardly a frame left.
    """
    token_budget: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        None, description="a whole number of tokens in a batch, 1 or more; or auto"
    )
    """The most protein tokens, and the most nucleotide tokens, in one batch. Bounds the device's memory. With `auto` it
    is measured at the first start with a model on a device, and kept: the smallest within 2% of the best rate."""
    frame_cache: int = Field(100_000, ge=0, description="a whole number of frames, 0 or more")
    """Frames whose scores are remembered: an equal one, within a batch too, is not computed again. Each takes about 270
    bytes of memory; 0 turns it off. The scores are the same; in fp32 on a GPU, where they depend on the size of the
    batch, it is always off."""
    max_sequence_bases: int = Field(1_000_000, ge=1, description="a whole number of bases, 1 or more")
    """The service writes a longer sequence to the dead-letter topic. The commands that score files apply no limit
    unless this is set; they then skip a longer record and report it."""
    log_level: LogLevel = Field("info", description="debug, info, warning or error")
    """How much is logged, to stderr."""
    log_format: LogFormat = Field("auto", description="auto, console or json")
    """`auto` is `console` on a terminal and `json` elsewhere."""

    @property
    def fixed_token_budget(self) -> int | None:
        """The token budget, None where the device or a measurement gives it."""
        return self.token_budget if isinstance(self.token_budget, int) else None


class ServiceSettings(ModelSettings):
    """All settings."""

    kafka_bootstrap_servers: Annotated[Name, AfterValidator(_bootstrap)] = Field(
        EMBEDDED, description=_SERVERS
    )
    """Which Kafka. `embedded` starts a broker inside the process: in memory, for one machine."""
    kafka: dict[str, str] = Field(default_factory=dict, description="further options of the Kafka client")
    input_topic: Topic = Field("sequences", description=_TOPIC)
    """Sequence records are read from here."""
    output_topic: Topic = Field("predictions", description=_TOPIC)
    """Predictions are written here."""
    dlq_topic: Topic = Field("sequences.dlq", description=_TOPIC)
    """Dead letters are written here. The three topics must differ and, on a real broker, exist."""
    topic_partitions: int | None = Field(
        None, ge=1, le=100_000, description="a whole number of partitions, 1 or more"
    )
    """Partitions of each of the three topics. Unset leaves the input topic as it is, and the other two get as many."""
    topic_replication: int | None = Field(
        None, ge=1, le=100, description="a whole number of replicas, 1 or more"
    )
    """Copies of each partition. Unset is the broker's default, and is not compared."""
    topic_retention_hours: float | None = Field(None, gt=0, description="a number of hours, more than 0")
    """How long messages are kept. Unset is the broker's default, and is not compared."""
    topic_min_insync_replicas: Annotated[int | None, AfterValidator(_min_insync)] = Field(
        None, ge=1, le=100, description="a whole number of replicas, 1 or more"
    )
    """How many copies must have a message before it is acknowledged. Unset is the broker's default, and is not
    compared."""
    group_id: KafkaId = Field(
        "virnucpro", description="the name of a consumer group: 1 to 249 printable ASCII characters"
    )
    """Processes with the same group share the partitions of the input topic."""
    instance_id: KafkaId = Field(
        default_factory=socket.gethostname,
        validate_default=True,
        description="a name that no other member of the group has: 1 to 249 printable ASCII characters",
    )
    """Names this process to the broker (`client.id`, and the transactional id). Unset is the host name, which
    for a pod of a StatefulSet is the pod's; further processes of the group on the machine are `host~1`, `host~2`
    and so on. See [Several processes on one machine](#several-processes-on-one-machine)."""
    delivery: Annotated[Delivery, AfterValidator(_delivery)] = Field(
        default_factory=_default_delivery, validate_default=True, description="exactly_once or at_least_once"
    )
    """The delivery guarantee."""

    input_format: InputFormat = Field("avro", description="avro, json or auto")
    """The format of the input; with `auto` each message may be either. A message in another one is a dead letter."""
    output_format: OutputFormat = Field("avro", description="avro or json")
    """The format of predictions and dead letters."""
    schema_registry_url: Annotated[str | None, AfterValidator(_registry_url)] = Field(
        None, description="http://host:port or https://host:port, several with commas"
    )
    """The schema registry. Avro messages in Confluent framing are resolved by it, and written so."""
    schema_registry_auto_register: Switch = Field(False, description=_YES_NO)
    """Register the schemas of the output at the start where they are missing. For trials: in production let
    `virnucpro schemas register` do it, which shows first what it changes."""
    schema_registry: dict[str, str] = Field(
        default_factory=dict, description="further options of the registry's client"
    )
    output_framing: Annotated[Literal["auto"] | Framing, AfterValidator(_framing)] = Field(
        "auto", description="auto, single_object, confluent or confluent_header"
    )
    """How an Avro message names its schema. `auto` is `confluent` with a schema registry, else `single_object`;
    `confluent_header` puts the schema's GUID into a header. `publish` writes its records so too."""

    on_gap: Literal["continue", "stop"] = Field("continue", description="continue or stop")
    """What to do when input was deleted before it was read: go on behind it and report it (`records_skipped` in
    the log, `vnp_records_skipped_total`), or end, with nothing committed behind it."""

    divergence_sample: float = Field(0.0, ge=0, le=1, description="a share of the batches, 0 to 1")
    """The share of batches that also go through the other attention path, after their answers are handed
    over; metrics show how far the two paths differ. Each costs two more forwards."""

    priority: Priority = Field("balanced", description="balanced, latency or throughput")
    """What to favour. It gives the defaults of those in [Latency or throughput](#latency-or-throughput); one that
    is set wins."""
    max_wait_ms: int = Field(50, ge=0, le=60_000, description=_MILLISECONDS)
    """How long a record may wait for its batch to fill."""
    prepare_threads: int = Field(1, ge=1, le=64, description="a whole number of threads, 1 to 64")
    """Threads that cut, translate and tokenise."""
    max_message_bytes: int = Field(
        4 << 20, ge=1000, le=900_000_000, description="a whole number of bytes, 1000 to 900000000"
    )
    """A larger message is a dead letter, undecoded."""
    max_inflight_records: int = Field(2000, ge=1, description="a whole number of records, 1 or more")
    """Records read and not yet answered. The assigned partitions share this: one busy partition may hold half of it,
    two a third each, and a partition that holds its share is paused."""
    max_inflight_bytes: int = Field(64 << 20, ge=1, description="a whole number of bytes, 1 or more")
    """The same for what they take in memory: key, value and headers, 500 bytes for each record and 200 for
    each header. See [Memory](#memory)."""
    max_inflight_tokens: int | None = Field(
        None, ge=1, description="a whole number of tokens, the token budget or more"
    )
    """The same for protein tokens that wait for a batch; unset is four batches. A partition may exceed its share by one
    record."""
    breaker_records: int = Field(
        500, ge=10, le=100_000, description="a whole number of records, 10 to 100000"
    )
    """The window: the number of latest records that are looked at, without those refused for their own content."""
    breaker_share: float = Field(0.5, ge=0, le=1, description="a share of the records, 0 to 1")
    """Reading stops when more than this share of them failed; with 1 it never does."""
    breaker_pause_s: float = Field(
        60.0, gt=0, le=86_400, description="a number of seconds, more than 0, at most 86400"
    )
    """Seconds from one trial to the next."""
    commit_interval_ms: int = Field(100, ge=0, le=60_000, description=_MILLISECONDS)
    """Offsets are committed at most this often; exactly once, up to five times as often while all that was read is
    finished."""
    startup_timeout_s: float = Field(
        30.0, gt=0, le=86_400, description="a number of seconds, more than 0, at most 86400"
    )
    """How long to wait at the start for a broker to answer."""
    drain_timeout_s: float = Field(25.0, ge=0, le=86_400, description="a number of seconds, 0 to 86400")
    """After SIGTERM: how long to finish what has started. A watchdog ends the process 10 seconds later in
    any case: keep both below the supervisor's grace period."""

    state_dir: Name = Field(default_factory=_state_dir, description="a folder that this process may write to")
    """Where the quarantine file lies; the default is `virnucpro-<user number>` in the system's folder for
    temporary files. It must outlive the process, not the machine: a folder in an `emptyDir` is right."""
    tracing: Switch = Field(False, description=_YES_NO)
    """Send spans by OpenTelemetry; the extra `otel`, and the variables OTEL_*, which say where to."""
    http_host: Name = Field("0.0.0.0", description="an address of this machine; 0.0.0.0 is all of them")
    """Where the status page, `/metrics` and the probes listen. No secret and no sequence is on them, but record ids
    are; `127.0.0.1` keeps them to this machine."""
    http_port: int = Field(8080, ge=0, le=65_535, description="a port, 1 to 65535, or 0 for any free one")
    """Their port. While this variable is not set, the first free one of 8080 to 8179 is taken, and `ready` and the
    log name it; one that is set is taken or the start fails."""

    @model_validator(mode="before")
    @classmethod
    def _with_priority(cls, values: Any) -> Any:
        return preferred(values) if isinstance(values, Mapping) else values

    @property
    def embedded(self) -> bool:
        """Whether the service brings its own broker."""
        return self.kafka_bootstrap_servers == EMBEDDED

    @property
    def framing(self) -> Framing:
        """How an Avro message that is written names its schema."""
        if self.output_framing != "auto":
            return self.output_framing
        return "single_object" if self.schema_registry_url is None else "confluent"

    def with_bootstrap(self, bootstrap_servers: str) -> Self:
        """The same settings with the address that the embedded broker got."""
        return self.model_copy(update={"kafka_bootstrap_servers": bootstrap_servers})

    def masked(self) -> dict[str, Any]:
        """Variable -> value in effect, secrets masked; a token budget of None is the device's own."""
        shown = {_variable(name): getattr(self, name) for name in _fields()}
        shown[_variable("v1_attention")] = bool(self.v1_attention)
        if self.schema_registry_url is not None:
            shown[REGISTRY_URL] = masked_url(self.schema_registry_url)
        options = {option_variable(name): masked_option(name, value) for name, value in self.kafka.items()}
        options |= {
            registry_variable(name): masked_registry_option(name, value)
            for name, value in self.schema_registry.items()
        }
        return shown | options


_Kind = TypeVar("_Kind", bound=ModelSettings)


def load_model_settings(environment: Mapping[str, str], **overrides: Any) -> ModelSettings:
    """What a command for files needs of an environment.

    Settings of the service, and options of the Kafka client however they are spelt, are passed over.

    Args:
        environment: variables; those without our prefix are ignored.
        overrides: fields that win over their variables.

    Raises:
        SettingsError: one line for each problem.
    """
    values, problems = _values_of(ModelSettings, environment)
    return _build(ModelSettings, values | overrides, problems)


def load_settings(environment: Mapping[str, str], **overrides: Any) -> ServiceSettings:
    """The settings that an environment gives; arguments and errors as those of `load_model_settings`."""
    values, problems = _values_of(ServiceSettings, environment)
    try:
        values["kafka"] = client_options(environment)
    except SettingsError as error:
        problems += str(error).splitlines()
    values |= overrides
    values["schema_registry"] = registry_options(environment, {_variable(name) for name in _fields()})
    problems += _registry_problems(values)
    # Set here, since pydantic computes no default from other fields while one of those is wrong.
    values.setdefault("delivery", _default_delivery(values))
    return _build(ServiceSettings, values, problems)


def _registry_problems(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with the options of the registry's client, a line each."""
    url, options = values.get("schema_registry_url"), values["schema_registry"]
    if url is None:
        return [
            f"{registry_variable(option)} needs {REGISTRY_URL}: set it, or unset both" for option in options
        ]
    hide_credentials(url)
    try:
        _registry_url(url)
    except ValueError:
        return []  # said of the field itself
    try:
        close_registry_client(new_registry_client(url, options))
    except SettingsError as error:
        return str(error).splitlines()
    return []


def _values_of(kind: type[ModelSettings], environment: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The fields of `kind` that have a variable, and a line for each variable that no setting has."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in prefixed(environment).items():
        field = name.removeprefix(PREFIX).lower()
        if field in _fields() and name == _variable(field):
            if field in kind.model_fields:
                values[field] = value
        elif not name.startswith((KAFKA_PREFIX, REGISTRY_PREFIX)):
            problems.append(_unknown(name))
    return values, problems


def _build(kind: type[_Kind], values: dict[str, Any], problems: list[str]) -> _Kind:
    try:
        settings = kind(**values)
    except ValidationError as error:
        # A field that takes a number or a word has an error for each.
        problems = list(dict.fromkeys([*problems, *(_describe(detail) for detail in error.errors())]))
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def _variable(field: str) -> str:
    return PREFIX + field.upper()


def _fields() -> list[str]:
    """The fields that have one variable each."""
    return [name for name in ServiceSettings.model_fields if name not in _PASSED_THROUGH]


def _unknown(name: str) -> str:
    near = get_close_matches(name.upper(), map(_variable, _fields()), n=1, cutoff=0.8)
    return f"unknown setting {name}: " + (
        f"did you mean {near[0]}?" if near else "unset it, or see docs/settings.md"
    )


def _describe(detail: ErrorDetails) -> str:
    """A validation error as one line that names the variable."""
    if detail["type"] == "refused":
        return detail["msg"]
    field = str(detail["loc"][0])
    if field not in ServiceSettings.model_fields:
        return _unknown(_variable(field))
    value = masked_url(str(detail["input"]))
    shown = value if len(value) <= _SHOWN_LETTERS else value[:_SHOWN_LETTERS] + "..."
    return (
        f"{_variable(field)}={shown} is refused: it takes {ServiceSettings.model_fields[field].description}"
    )
