"""A kube-apiserver on an etcd, on this machine: it validates, defaults and stores, and nothing runs pods."""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import yaml

from tests.deploy.tools import FOLDER, ROOT, needed

START_S = 90.0


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in taken]


class ApiServer:
    """Runs within the `with` block; `kubectl` and `helm` talk to it as its administrator.

    Raises:
        TimeoutError: it was not ready in time; the message has the end of its log.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.kubeconfig = folder / "kubeconfig"

    def __enter__(self) -> ApiServer:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self._admin("kubectl", *arguments, stdin=stdin)

    def helm(self, *arguments: str) -> str:
        return self._admin("helm", *arguments)

    def _admin(self, tool: str, *arguments: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            [needed(tool), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=120,
            check=False,
            env=os.environ | {"KUBECONFIG": str(self.kubeconfig)},
        )
        assert done.returncode == 0, f"{tool} {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def _start(self) -> None:
        client, peer, port = _free_ports(3)
        self._run(
            "etcd",
            f"--data-dir={self._folder / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{client}",
            f"--advertise-client-urls=http://127.0.0.1:{client}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            "--unsafe-no-fsync",
        )
        token = secrets.token_hex(16)
        (self._folder / "tokens").write_text(f"{token},admin,admin,system:masters\n")
        key = self._folder / "service-account.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{client}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={self._folder / 'certificates'}",
            f"--token-auth-file={self._folder / 'tokens'}",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--authorization-mode=RBAC",
            # No controller creates the account of a namespace.
            "--disable-admission-plugins=ServiceAccount",
        )
        self._write_kubeconfig(port, token)
        self._await(port, token)
        for path in sorted((FOLDER / "crds").glob("*.yaml")):
            self.kubectl("create", "--filename", str(path))
        self.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")

    def _run(self, tool: str, *arguments: str) -> None:
        log = self._stack.enter_context((self._folder / f"{tool}.log").open("wb"))
        process = subprocess.Popen([needed(tool), *arguments], stdout=log, stderr=log)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)

    def _write_kubeconfig(self, port: int, token: str) -> None:
        cluster = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "current-context": "test",
        }
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(yaml.safe_dump(config))

    def _await(self, port: int, token: str) -> None:
        request = urllib.request.Request(
            f"https://127.0.0.1:{port}/readyz", headers={"Authorization": f"Bearer {token}"}
        )
        own = ssl._create_unverified_context()  # its certificate is made at the start
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(request, timeout=2, context=own) as answer:
                    if answer.status == 200:
                        return
            except (OSError, urllib.error.URLError):
                pass
            time.sleep(0.2)
        log = (self._folder / "kube-apiserver.log").read_text()[-2000:]
        raise TimeoutError(f"kube-apiserver was not ready in {START_S:.0f} s:\n{log}")
