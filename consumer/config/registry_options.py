"""The client of a schema registry: Confluent's own, with the options that pass through to it.

`VIRNUCPRO_SCHEMA_REGISTRY_<OPTION>` is the option of `confluent_kafka.schema_registry.SchemaRegistryClient` with that
name, in small letters and with dots: `VIRNUCPRO_SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO` is `basic.auth.user.info`. The
client itself is what says whether an option is known.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from consumer.config.environment import SettingsError, prefixed
from consumer.config.secrets import MASK, hide

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import SchemaRegistryClient

REGISTRY_PREFIX = "VIRNUCPRO_SCHEMA_REGISTRY_"
REGISTRY_URL = REGISTRY_PREFIX + "URL"
TIMEOUT_S = 5.0

_CREDENTIALS = re.compile(r"(?<=//)[^\s,]*@")
_TUNING: Mapping[str, Any] = {
    # Its default waits forever.
    "timeout": TIMEOUT_S,
    # A call that fails is repeated later, and without keeping a thread: by the pipeline, or by the user.
    "max.retries": 0,
}
_NUMBERS = frozenset(
    (
        *("timeout", "cache.capacity", "cache.latest.ttl.sec"),
        *("max.retries", "retries.wait.ms", "retries.max.wait.ms"),
    )
)
_NAMES = frozenset(
    (
        *("bearer.auth.credentials.source", "bearer.auth.logical.cluster", "bearer.auth.identity.pool.id"),
        *("bearer.auth.client.id", "bearer.auth.scope"),
    )
)
"""Free text, and no secret."""
_ADDRESSES = frozenset(("proxy", "bearer.auth.issuer.endpoint.url"))
_BEARER_TOKEN = "bearer.auth.token"
_STATIC_TOKEN: Mapping[str, str] = {
    "bearer.auth.credentials.source": "STATIC_TOKEN",
    # Required by the client (the pool up to 2.14), used by Confluent's cloud alone.
    "bearer.auth.logical.cluster": "",
    "bearer.auth.identity.pool.id": "",
}


def registry_options(environment: Mapping[str, str], settings: Collection[str]) -> dict[str, str]:
    """Options for the registry's client from an environment; from now on their secrets are hidden in what is logged.

    Args:
        settings: variables with the same prefix that are settings.
    """
    found = {
        name.removeprefix(REGISTRY_PREFIX).lower().replace("_", "."): value
        for name, value in sorted(prefixed(environment).items())
        if name.startswith(REGISTRY_PREFIX) and name not in settings
    }
    for option, value in found.items():
        if masked_registry_option(option, value) != value:
            hide(value)
    return found


def registry_variable(option: str) -> str:
    """The variable that sets an option of the registry's client."""
    return REGISTRY_PREFIX + option.replace(".", "_").upper()


def masked_url(url: str) -> str:
    """An address, or several with commas, without the credentials in it."""
    return _CREDENTIALS.sub(f"{MASK}@", url)


def hide_credentials(url: str) -> None:
    """From now on nothing that is logged shows the user and the password in an address."""
    for credentials in _CREDENTIALS.findall(url):
        hide(credentials.removesuffix("@"))
        hide(credentials.removesuffix("@").partition(":")[2])


def masked_registry_option(option: str, value: str) -> str:
    """The value as it may be shown: an address without credentials, and text only if the option holds no secret."""
    if option in _NUMBERS or option in _NAMES or option.endswith(".location"):
        return value
    return masked_url(value) if option in _ADDRESSES else MASK


def new_registry_client(url: str, options: Mapping[str, str]) -> SchemaRegistryClient:
    """The client. Nothing is asked of the registry yet.

    Raises:
        SettingsError: the client is not installed, or refuses an option; one line says which.
    """
    try:
        from confluent_kafka.schema_registry import SchemaRegistryClient
    except ImportError as error:
        raise SettingsError(
            f"{REGISTRY_URL} is refused: the client of schema registries is not installed ({error.name} is missing): "
            "pip install 'virnucpro-stream[registry]'"
        ) from error
    try:
        return SchemaRegistryClient(_config(url, options))
    except (ValueError, TypeError, OSError) as error:
        raise SettingsError(_refusal(options, error)) from error


def close_registry_client(client: SchemaRegistryClient) -> None:
    """Close its connections."""
    # Clients before 2.16 have no such method.
    getattr(client, "close", lambda: None)()


def _config(url: str, options: Mapping[str, str]) -> dict[str, Any]:
    config = dict(_TUNING) | {"url": url}
    for option, value in options.items():
        config[option] = _number(option, value) if option in _NUMBERS else value
    return dict(_STATIC_TOKEN) | config if _BEARER_TOKEN in options else config


def _number(option: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise SettingsError(f"{registry_variable(option)}={value} is refused: it takes a number, 0 or more")
    return number


def _refusal(options: Mapping[str, str], error: Exception) -> str:
    """What the client says of its options, in terms of their variables and without secrets."""
    text = " ".join(str(error).split())
    for option, value in options.items():
        if masked_registry_option(option, value) != value:
            text = text.replace(value, MASK)
    for option in sorted(options, key=len, reverse=True):
        text = text.replace(option, registry_variable(option))
    named = registry_variable(next(iter(options))) if len(options) == 1 else f"{REGISTRY_PREFIX}*"
    return f"{named} is refused: the client of the schema registry says: {text}"
