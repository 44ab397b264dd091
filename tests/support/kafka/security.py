"""A broker with encrypted and authenticated listeners: openssl's certificates, SCRAM users, tokens, and rights."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import AclOperation, ResourceType

from tests.support.kafka import admin
from tests.support.kafka.broker import NoBroker
from tests.support.kafka.job import Job
from tests.support.kafka.kraft import KraftBroker, Listeners, class_path, free_port
from tests.support.kafka.tokens import AUDIENCE, ISSUER, TokenEndpoint

MECHANISM = "SCRAM-SHA-512"
PASSWORDS = {"service": "hush-of-the-service", "person": "hush-of-the-person"}
"""Users without any right until a test grants one."""
MUTUAL, TOKENS = "MUTUAL", "TOKENS"
"""Listeners that are named by what they ask for: a client's certificate, and a token (SASL OAUTHBEARER)."""
_PROTOCOLS = {
    "SASL_PLAINTEXT": "SASL_PLAINTEXT",
    "SSL": "SSL",
    "SASL_SSL": "SASL_SSL",
    MUTUAL: "SSL",
    TOKENS: "SASL_SSL",
}
_OAUTH = "org.apache.kafka.common.security.oauthbearer"
_LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_OPENSSL_S = 60

Right = tuple[ResourceType, str, AclOperation]


@dataclass(frozen=True)
class SecureBroker:
    """A running broker, whose plain listener is the administrator's, and the authorities that clients may trust."""

    broker: KraftBroker
    ports: dict[str, int]
    ca: Path
    wrong_ca: Path
    identities: Path
    tokens: TokenEndpoint

    def address(self, listener: str) -> str:
        return f"127.0.0.1:{self.ports[listener]}"

    def client(
        self, user: str = "service", listener: str = "SASL_SSL", password: str | None = None
    ) -> dict[str, str]:
        """The settings that make our programs a client of one listener."""
        options = {
            "bootstrap_servers": self.address(listener),
            "security_protocol": _PROTOCOLS[listener],
            "ssl_ca_location": str(self.ca),
        }
        if listener == MUTUAL:
            options |= _identity(self.identities, user, self.ca)
        elif listener == TOKENS:
            options |= {
                "sasl_mechanism": "OAUTHBEARER",
                "sasl_oauthbearer_method": "oidc",
                "sasl_oauthbearer_token_endpoint_url": self.tokens.url,
                "sasl_oauthbearer_client_id": user,
                "sasl_oauthbearer_client_secret": password or PASSWORDS[user],
            }
        elif listener.startswith("SASL"):
            options |= {
                "sasl_mechanism": MECHANISM,
                "sasl_username": user,
                "sasl_password": password or PASSWORDS[user],
            }
        return _settings(options)

    def stop(self) -> None:
        self.broker.stop()
        self.tokens.close()

    def grant(self, user: str, *rights: Right) -> None:
        admin.grant(self.broker.bootstrap_servers, user, rights)


@dataclass(frozen=True)
class Certificates:
    """PEM files: of a server at 127.0.0.1, of the authority that signed it, and of one that did not."""

    ca: Path
    wrong_ca: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path) -> Certificates:
    """New ones, by openssl."""
    ca, wrong_ca = _authority(folder, "ca"), _authority(folder, "wrong-ca")
    key, certificate = _signed(folder, "broker", ca)
    return Certificates(ca, wrong_ca, certificate, key)


def start_secure_broker(folder: Path) -> SecureBroker:
    """Start a broker with a listener for each protocol; who comes over the plain one may do everything.

    Raises:
        NoBroker: no jars, or no openssl.
    """
    if shutil.which("openssl") is None:
        raise NoBroker("openssl not found")
    ca, wrong_ca = _authority(folder, "ca"), _authority(folder, "wrong-ca")
    tokens = TokenEndpoint(folder, PASSWORDS)
    ports = {listener: free_port() for listener in _PROTOCOLS}
    logins = {
        f"listener.name.{listener.lower()}.{MECHANISM.lower()}.sasl.jaas.config": _LOGIN
        for listener, protocol in _PROTOCOLS.items()
        if protocol.startswith("SASL") and listener != TOKENS
    }
    keys = tokens.keys.as_uri()
    properties = {
        "sasl.enabled.mechanisms": MECHANISM,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": _keystore(folder, ca),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    mutual = {
        "ssl.client.auth": "required",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": ca,
        "ssl.principal.mapping.rules": "RULE:^CN=(.*)$/$1/",
    }
    by_token = {
        "sasl.enabled.mechanisms": "OAUTHBEARER",
        "oauthbearer.sasl.jaas.config": f"{_OAUTH}.OAuthBearerLoginModule required;",
        "oauthbearer.sasl.server.callback.handler.class": f"{_OAUTH}.OAuthBearerValidatorCallbackHandler",
        "oauthbearer.connections.max.reauth.ms": 60_000,
        "sasl.oauthbearer.jwks.endpoint.url": keys,
        "sasl.oauthbearer.expected.audience": AUDIENCE,
        "sasl.oauthbearer.expected.issuer": ISSUER,
    }
    for listener, special in ((MUTUAL, mutual), (TOKENS, by_token)):
        properties |= {f"listener.name.{listener.lower()}.{name}": value for name, value in special.items()}
    users = [f"-S{MECHANISM}=[name={user},password={password}]" for user, password in PASSWORDS.items()]
    listeners = Listeners(
        ports,
        _PROTOCOLS,
        properties | logins,
        tuple(users),
        # A broker takes keys only from the places that it is told to trust.
        (f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={keys}",),
    )
    try:
        running = KraftBroker(folder, class_path(folder), listeners).start()
    except BaseException:
        tokens.close()
        raise
    return SecureBroker(running, ports, ca, wrong_ca, folder, tokens)


def service_rights(job: Job) -> dict[str, Right]:
    """All that a service needs, and nothing more; named, so that a test can leave one out."""
    transactional_id = f"{job.name}.{job.worker(0)['VIRNUCPRO_INSTANCE_ID']}"
    return {
        "group": (ResourceType.GROUP, job.name, AclOperation.READ),
        "in": (ResourceType.TOPIC, f"{job.name}.in", AclOperation.READ),
        "out": (ResourceType.TOPIC, f"{job.name}.out", AclOperation.WRITE),
        "dlq": (ResourceType.TOPIC, f"{job.name}.dlq", AclOperation.WRITE),
        "transactional id": (ResourceType.TRANSACTIONAL_ID, transactional_id, AclOperation.WRITE),
    }


def _authority(folder: Path, name: str) -> Path:
    certificate = folder / f"{name}.pem"
    key = folder / f"{name}.key"
    _openssl(*("req", "-x509", *_NEW_KEY), *("-keyout", key, "-out", certificate, "-subj", f"/CN={name}"))
    return certificate


def _keystore(folder: Path, ca: Path) -> Path:
    """The broker's key and its certificate, signed by an authority, in one file."""
    key, certificate = _signed(folder, "broker", ca)
    keystore = folder / "broker.pem"
    keystore.write_text(key.read_text() + certificate.read_text())
    return keystore


def _identity(folder: Path, user: str, ca: Path) -> dict[str, str]:
    """The options of a client that shows a certificate."""
    key, certificate = _signed(folder, user, ca)
    return {"ssl_key_location": str(key), "ssl_certificate_location": str(certificate)}


def _signed(folder: Path, name: str, ca: Path) -> tuple[Path, Path]:
    """A key, and a certificate for it with this common name, signed by an authority."""
    key, request, certificate = (folder / f"{name}-of-{ca.stem}.{kind}" for kind in ("key", "csr", "crt"))
    names = folder / f"{name}.ext"
    names.write_text("subjectAltName=IP:127.0.0.1\n")
    _openssl(*("req", "-new", *_NEW_KEY), *("-keyout", key, "-out", request, "-subj", f"/CN={name}"))
    _openssl(
        *("x509", "-req", "-in", request, "-out", certificate, "-extfile", names),
        *("-CA", ca, "-CAkey", ca.with_suffix(".key"), "-CAcreateserial"),
    )
    return key, certificate


def _settings(options: dict[str, str]) -> dict[str, str]:
    return {f"VIRNUCPRO_KAFKA_{option.upper()}": value for option, value in options.items()}


def _openssl(*arguments: object) -> None:
    command = ["openssl", *map(str, arguments)]
    subprocess.run(command, capture_output=True, timeout=_OPENSSL_S, check=True)
