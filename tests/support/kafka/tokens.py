"""An identity provider for OAUTHBEARER: signed tokens for those who know their secret, and the keys that prove them."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote

from tests.support.http_server import LocalHttpServer

AUDIENCE, ISSUER = "kafka", "virnucpro-tests"
LIFETIME_S = 3
"""Of a token: a client fetches the next one after four fifths of it; the broker closes a session that outlives it."""
_KEY_ID = "tests"
_OPENSSL_S = 60


class TokenEndpoint(LocalHttpServer):
    """The client credentials grant of OAuth 2 over HTTP, with tokens signed by RS256.

    Args:
        folder: for its key, and for `keys`, the file by which a broker checks its tokens.
        secrets: by client id, which becomes the token's subject.
    """

    def __init__(self, folder: Path, secrets: Mapping[str, str]) -> None:
        self._key, self.keys = folder / "tokens.key", folder / "tokens.jwks"
        self._secrets = secrets
        self.issued: list[str] = []
        """The client id of each token that was given out."""
        _openssl("genrsa", "-out", str(self._key), "2048")
        modulus = _openssl("rsa", "-in", str(self._key), "-noout", "-modulus").decode().strip()
        number = _base64url(bytes.fromhex(modulus.removeprefix("Modulus=")))
        public = {
            "kty": "RSA",
            "alg": "RS256",
            "use": "sig",
            "kid": _KEY_ID,
            "n": number,
            "e": _base64url(b"\1\0\1"),
        }
        self.keys.write_text(json.dumps({"keys": [public]}))
        super().__init__(self._handler())
        self.url = f"http://127.0.0.1:{self.port}/token"
        self.start()

    def token(self, client: str, audience: str = AUDIENCE) -> str:
        """A signed token for a client."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": audience,
            "sub": client,
            "iat": now,
            "exp": now + LIFETIME_S,
        }
        header = {"alg": "RS256", "kid": _KEY_ID, "typ": "JWT"}
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        signature = _openssl("dgst", "-sha256", "-sign", str(self._key), stdin=signed.encode())
        return f"{signed}.{_base64url(signature)}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                kind, _, credentials = self.headers.get("Authorization", "").partition(" ")
                name, _, secret = base64.b64decode(credentials).decode().partition(":")
                name, secret = unquote(name), unquote(secret)
                if kind != "Basic" or endpoint._secrets.get(name) != secret:
                    self._answer(
                        401, {"error": "invalid_client", "error_description": "unknown client or secret"}
                    )
                    return
                endpoint.issued.append(name)
                self._answer(
                    200,
                    {
                        "access_token": endpoint.token(name),
                        "token_type": "Bearer",
                        "expires_in": LIFETIME_S,
                    },
                )

            def _answer(self, status: int, content: Mapping[str, object]) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _openssl(*arguments: str, stdin: bytes = b"") -> bytes:
    done = subprocess.run(
        ["openssl", *arguments], input=stdin, capture_output=True, timeout=_OPENSSL_S, check=True
    )
    return done.stdout
