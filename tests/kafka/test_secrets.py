"""Passwords, keys and tokens of a running service are in nothing that others can read."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.harness import NoopServe, serving, virnucpro
from tests.support.kafka.job import Job
from tests.support.kafka.security import PASSWORDS, SecureBroker, service_rights

RECORDS = 20
PAGES = ("/", "/status", "/metrics", *(f"/{probe}?verbose" for probe in ("livez", "readyz", "startupz")))
KEY_PASSWORD = "hush-key-of-the-client"
CLIENT_SECRET = "hush-secret-of-the-token-endpoint"
TOKEN_CONFIG = "principal=hush-principal-of-the-token"


@pytest.fixture
def key(secure_broker: SecureBroker, tmp_path: Path) -> tuple[Path, Path]:
    """A client's certificate, and its encrypted private key."""
    key, certificate = tmp_path / "client.key", tmp_path / "client.pem"
    new = ("req", "-x509", "-newkey", "rsa:2048", "-passout", f"pass:{KEY_PASSWORD}", "-subj", "/CN=client")
    command = ["openssl", *new, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
    return key, certificate


def spellings(secret: str) -> set[bytes]:
    """As it is, and as programs tend to write it."""
    raw = secret.encode()
    ways = {raw, base64.b64encode(raw).rstrip(b"="), raw.hex().encode(), quote(secret, safe="").encode()}
    return ways | {json.dumps(secret).strip('"').encode()}


def test_secrets_are_in_no_log_page_metric_answer_file_or_process_list(secure_broker, tmp_path, key):
    job = Job.create(secure_broker.broker)
    secure_broker.grant("service", *service_rights(job).values())
    secrets = {
        "VIRNUCPRO_KAFKA_SASL_PASSWORD": PASSWORDS["service"],
        "VIRNUCPRO_KAFKA_SSL_KEY_PASSWORD": KEY_PASSWORD,
        "VIRNUCPRO_KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET": CLIENT_SECRET,
        "VIRNUCPRO_KAFKA_SASL_OAUTHBEARER_CONFIG": TOKEN_CONFIG,
    }
    variables = job.worker(0) | secure_broker.client("service") | secrets
    variables |= {
        "VIRNUCPRO_KAFKA_SSL_KEY_LOCATION": str(key[0]),
        "VIRNUCPRO_KAFKA_SSL_CERTIFICATE_LOCATION": str(key[1]),
        "VIRNUCPRO_KAFKA_DEBUG": "security,conf,broker",
        "VIRNUCPRO_LOG_LEVEL": "debug",
    }
    log = tmp_path / "serve.log"
    seen: dict[str, bytes] = {}
    with serving(log, kind=NoopServe, **variables) as serve:
        job.publish(0, RECORDS)
        job.finish(RECORDS)
        for page in PAGES:
            seen[f"page {page}"] = serve.get(page)[1].encode()
        process = Path(f"/proc/{serve.process.pid}")
        if process.is_dir():
            environment = (process / "environ").read_bytes()
            assert all(secret.encode() in environment for secret in secrets.values()), "the process has them"
            seen["process list"] = (process / "cmdline").read_bytes() + (process / "comm").read_bytes()
        assert serve.stop() == 0
    seen["log"] = log.read_bytes()
    seen["print-config"] = virnucpro("serve", "--print-config", **variables).stdout
    for topic in ("out", "dlq"):
        seen[f"answers in {topic}"] = b"".join(
            (message.value() or b"") + repr(message.headers()).encode() for message in job.read_all(topic)
        )
    for path in (tmp_path / "state").rglob("*"):
        seen[f"state file {path.name}"] = path.read_bytes()

    for masked in ("page /status", "print-config"):
        for variable in secrets:
            assert variable.encode() in seen[masked], "it is shown that it is set"
    found = {
        (place, variable)
        for place, text in seen.items()
        for variable, secret in secrets.items()
        if any(way in text for way in spellings(secret))
    }
    assert found == set()
    assert all(text for place, text in seen.items() if not place.startswith("state file")), "nothing is empty"
