"""Real servers for tests: processes on loopback ports, ended by the one who started them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def serving(command: Sequence[str], port: int, *, seconds: float = 60) -> Iterator[None]:
    """Run a server process until the block is left; waits until its port answers."""
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            assert server.poll() is None and time.monotonic() < deadline, f"{command[0]} did not start"
            time.sleep(0.1)
        yield
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@contextlib.contextmanager
def moto_server() -> Iterator[str]:
    """moto's S3 server; its endpoint."""
    port = free_port()
    with serving([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def rclone_server(folder: Path, key: str, secret: str) -> Iterator[str]:
    """rclone's S3 front on a folder, whose sub-folders are buckets; its endpoint. It checks signatures, and ignores
    conditional puts."""
    port = free_port()
    rclone = Path(sys.executable).with_name("rclone")
    address = ["--addr", f"127.0.0.1:{port}", "--auth-key", f"{key},{secret}"]
    with serving([str(rclone), "serve", "s3", *address, "--config", os.devnull, str(folder)], port):
        yield f"http://127.0.0.1:{port}"


def s3_client(endpoint: str) -> Any:
    """boto3's client of a server that takes any key, such as `moto_server`."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def s3_environment(endpoint: str | None = None, key: str = "test", secret: str = "test") -> dict[str, str]:
    """This process's environment with test credentials, and the endpoint where it is to come from there."""
    held = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    held |= {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_DEFAULT_REGION": "us-east-1"}
    return held if endpoint is None else held | {"AWS_ENDPOINT_URL": endpoint}
