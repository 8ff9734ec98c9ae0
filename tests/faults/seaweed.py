"""SeaweedFS, a real S3 server that checks keys and honours conditional puts: killed, frozen, refusing, restarted."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from tests.servers import free_port, s3_environment

KEY, SECRET = "AKTEST", "secret"
ALL = ("Admin", "Read", "Write", "List", "Tagging")
UP = 90.0  # seconds that a start may take on a busy machine


class Seaweed:
    """One server on loopback ports, with its files in `folder`. Leaving the block ends it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = {name: _pair() for name in ("master", "volume", "filer", "s3")}
        self._process: subprocess.Popen[bytes] | None = None
        self._rights: Mapping[str, tuple[str, ...]] = {SECRET: ALL}
        (folder / "data").mkdir(parents=True)

    def __enter__(self) -> Seaweed:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def environment(self) -> dict[str, str]:
        """A driver's environment: this server, its key."""
        return s3_environment(self.endpoint, KEY, SECRET)

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
        )

    def start(self, *, rights: tuple[str, ...] = ALL, secret: str = SECRET) -> None:
        """Start it, on the files that are there, with these rights of the one key; returns once it answers."""
        identity = {"name": "test", "credentials": [{"accessKey": KEY, "secretKey": secret}], "actions": list(rights)}
        (self._folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        ports = [f"-{name}.port={port}" for name, port in self._ports.items()]
        self._process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("weed")),
                "server",
                f"-dir={self._folder / 'data'}",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                *ports,
                "-volume.max=20",
                "-master.volumeSizeLimitMB=64",
                "-s3",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                f"-s3.config={self._folder / 's3.json'}",
            ],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        )
        self._wait(answers=rights == ALL and secret == SECRET)

    def kill(self) -> None:
        """SIGKILL, as when a machine goes."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It takes connections and answers nothing, until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _wait(self, *, answers: bool) -> None:
        """Until the port is open and, where the key has all rights, buckets can be listed and written to."""
        deadline = time.monotonic() + UP
        while True:
            assert self._process is not None and self._process.poll() is None, "weed did not start"
            assert time.monotonic() < deadline, "weed does not answer"
            with contextlib.suppress(OSError, BotoCoreError, ClientError):
                socket.create_connection(("127.0.0.1", self._ports["s3"]), timeout=1).close()
                if answers:
                    self._write_something()
                return
            time.sleep(0.2)

    def _write_something(self) -> None:
        client = self.client()
        client.create_bucket(Bucket="probing") if "probing" not in _buckets(client) else None
        client.put_object(Bucket="probing", Key="x", Body=b"x")
        client.get_object(Bucket="probing", Key="x")["Body"].read()


def _buckets(client: Any) -> set[str]:
    return {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}


def _pair() -> int:
    """A free port whose number plus 10,000 is free too: weed listens there for gRPC."""
    while True:
        port = free_port()
        if port + 10_000 < 65_536:
            with contextlib.suppress(OSError), socket.socket() as other:
                other.bind(("127.0.0.1", port + 10_000))
                return port
