"""A loopback proxy in front of an S3 server that misbehaves on purpose: errors, resets, slowness, short bodies.

A request is never failed more than three times in a row, so that no retry of a sound client runs out by chance. It also
notes what was asked for and how many bytes went back; without mischief that is all it does.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("500", "503", "reset", "lost answer")
IN_A_ROW = 3
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "content-length", "date", "server"}


@dataclass(frozen=True)
class Mischief:
    """What the proxy does: shares of requests that fail and of GET bodies that are cut, seconds before every answer."""

    failing: float = 0.0
    cut: float = 0.0
    delay: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Noted:
    """A request that was answered: `range` is the header's (empty: the whole), `bytes` what the body held."""

    method: str
    path: str
    range: str
    bytes: int


class Proxy(ThreadingHTTPServer):
    """Forwards to `target`, a host and port, except where the dice say otherwise. `done` counts what it did, `noted` is
    what was asked for, in the order of the answers."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, target: tuple[str, int], mischief: Mischief) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self.mischief = mischief
        self.done: Counter[str] = Counter()
        self.noted: list[Noted] = []
        self._dice = random.Random(mischief.seed)
        self._lock = threading.Lock()
        self._in_a_row: Counter[str] = Counter()

    def decide(self, method: str, path: str) -> str:
        """What happens to this request: one of FAULTS, `cut` or `forward`."""
        with self._lock:
            request = f"{method} {path}"
            verdict = "forward"
            if self._in_a_row[request] < IN_A_ROW:
                if self._dice.random() < self.mischief.failing:
                    verdict = self._dice.choice(FAULTS)
                elif method == "GET" and self._dice.random() < self.mischief.cut:
                    verdict = "cut"
            self._in_a_row[request] = 0 if verdict == "forward" else self._in_a_row[request] + 1
            self.done[verdict] += 1
            return verdict

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are nothing to report."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _handle(self) -> None:
        verdict = self.server.decide(self.command, self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        time.sleep(self.server.mischief.delay)
        if verdict in ("500", "503"):
            self._answer(int(verdict), {"Content-Type": "application/xml"}, _error(verdict))
        elif verdict == "reset":
            self._reset()
        else:
            status, headers, content = self._forward(body)
            if verdict == "lost answer":
                self._reset()
            else:
                self._answer(status, headers, content, cut=verdict == "cut" and len(content) > 1)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(*self.server.target, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
            connection.request(self.command, self.path, body or None, headers | {"Content-Length": str(len(body))})
            answer = connection.getresponse()
            content = answer.read()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP}
            if self.command == "HEAD":
                kept["Content-Length"] = answer.getheader("Content-Length") or "0"
            return answer.status, kept, content
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers and status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        sent = b"" if self.command == "HEAD" else content[: len(content) // 2] if cut else content
        self.server.noted.append(Noted(self.command, self.path, self.headers.get("Range", ""), len(sent)))
        self.wfile.write(sent)
        if cut:
            self.close_connection = True

    def _reset(self) -> None:
        """RST instead of an orderly end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Quiet."""


def _error(status: str) -> bytes:
    code = {"500": "InternalError", "503": "SlowDown"}[status]
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>mischief</Message></Error>".encode()


@contextlib.contextmanager
def misbehaving(endpoint: str, mischief: Mischief) -> Iterator[tuple[str, Proxy]]:
    """A proxy in front of `http://host:port`; its own endpoint."""
    host, _, port = endpoint.removeprefix("http://").partition(":")
    proxy = Proxy((host, int(port)), mischief)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}", proxy
    finally:
        proxy.shutdown()
        thread.join(10)
        proxy.server_close()
