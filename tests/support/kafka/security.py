"""A broker with encrypted and authenticated listeners: certificates made by openssl, SCRAM users, and rights."""

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

MECHANISM = "SCRAM-SHA-512"
PASSWORDS = {"service": "hush-of-the-service", "person": "hush-of-the-person"}
"""Users without any right until a test grants one."""
_PROTOCOLS = ("SASL_PLAINTEXT", "SSL", "SASL_SSL")
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

    def address(self, protocol: str) -> str:
        return f"127.0.0.1:{self.ports[protocol]}"

    def client(
        self, user: str = "service", protocol: str = "SASL_SSL", password: str | None = None
    ) -> dict[str, str]:
        """The settings that make our programs a client of one listener."""
        options = {
            "bootstrap_servers": self.address(protocol),
            "security_protocol": protocol,
            "ssl_ca_location": str(self.ca),
        }
        if protocol.startswith("SASL"):
            options |= {
                "sasl_mechanism": MECHANISM,
                "sasl_username": user,
                "sasl_password": password or PASSWORDS[user],
            }
        return {f"VIRNUCPRO_KAFKA_{option.upper()}": value for option, value in options.items()}

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
    _keystore(folder, ca)
    return Certificates(ca, wrong_ca, folder / "broker.crt", folder / "broker.key")


def start_secure_broker(folder: Path) -> SecureBroker:
    """Start a broker with a listener for each protocol; who comes over the plain one may do everything.

    Raises:
        NoBroker: no jars, or no openssl.
    """
    if shutil.which("openssl") is None:
        raise NoBroker("openssl not found")
    ca, wrong_ca = _authority(folder, "ca"), _authority(folder, "wrong-ca")
    ports = {protocol: free_port() for protocol in _PROTOCOLS}
    logins = {
        f"listener.name.{protocol.lower()}.{MECHANISM.lower()}.sasl.jaas.config": _LOGIN
        for protocol in _PROTOCOLS
        if protocol.startswith("SASL")
    }
    properties = {
        "sasl.enabled.mechanisms": MECHANISM,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": _keystore(folder, ca),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    users = [f"-S{MECHANISM}=[name={user},password={password}]" for user, password in PASSWORDS.items()]
    listeners = Listeners(ports, properties | logins, tuple(users))
    return SecureBroker(KraftBroker(folder, class_path(folder), listeners).start(), ports, ca, wrong_ca)


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
    key, request, certificate = (folder / f"broker.{kind}" for kind in ("key", "csr", "crt"))
    names = folder / "broker.ext"
    names.write_text("subjectAltName=IP:127.0.0.1\n")
    _openssl(*("req", "-new", *_NEW_KEY), *("-keyout", key, "-out", request, "-subj", "/CN=broker"))
    _openssl(
        *("x509", "-req", "-in", request, "-out", certificate, "-extfile", names),
        *("-CA", ca, "-CAkey", ca.with_suffix(".key"), "-CAcreateserial"),
    )
    keystore = folder / "broker.pem"
    keystore.write_text(key.read_text() + certificate.read_text())
    return keystore


def _openssl(*arguments: object) -> None:
    command = ["openssl", *map(str, arguments)]
    subprocess.run(command, capture_output=True, timeout=_OPENSSL_S, check=True)
