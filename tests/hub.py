"""A stand-in for the Hugging Face Hub on a loopback port: what `hf://` asks for, answered from a folder.

It answers huggingface_hub's own client as the Hub does: commits of a branch, trees, paths, ranges of files. The real
Hub also redirects downloads to other hosts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants


@dataclass
class Hub:
    """The repository `datasets/people/images`: the files of a folder, all on the branch `main`.

    token: what must be sent, if anything. away: answers 503. asked: paths of requests.
    """

    folder: Path
    endpoint: str = ""
    token: str | None = None
    away: bool = False
    asked: list[str] = field(default_factory=list)

    @property
    def commit(self) -> str:
        """Changes with every file."""
        names = sorted((path.relative_to(self.folder).as_posix(), blob(path)) for path in self.files())
        return hashlib.sha1(json.dumps(names).encode()).hexdigest()

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def entry(self, path: Path) -> dict[str, Any]:
        name = path.relative_to(self.folder).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
        return {"type": "file", "path": name, "oid": blob(path), "size": path.stat().st_size}


def blob(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


REPOSITORY = "datasets/people/images"


class _Answers(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self._answer(b"")

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        hub, url = self.hub, urlsplit(self.path)
        path, query = unquote(url.path).strip("/"), parse_qs(url.query)
        hub.asked.append(path)
        if hub.away:
            return self._send(503, b"away")
        if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._send(401, b"{}", {"X-Error-Message": "Invalid username or password."})
        api, resolve = f"api/{REPOSITORY}", f"{REPOSITORY}/resolve/"
        if path in (api, f"{api}/revision/main", f"{api}/revision/{hub.commit}"):
            return self._json({"id": "people/images", "sha": hub.commit, "siblings": [], "tags": []})
        if path.startswith(f"{api}/tree/{hub.commit}"):
            return self._tree(path.removeprefix(f"{api}/tree/{hub.commit}").strip("/"), query["recursive"] == ["true"])
        if path == f"{api}/paths-info/{hub.commit}":
            asked = [hub.folder / name for name in parse_qs(body.decode()).get("paths", [])]
            asked = asked or [hub.folder / name for name in _listed(body)]
            return self._json([hub.entry(found) for found in asked if found.exists()])
        if path.startswith(f"{resolve}{hub.commit}/"):
            return self._file(hub.folder / path.removeprefix(f"{resolve}{hub.commit}/"))
        code = "RevisionNotFound" if path.startswith((api, resolve)) else "RepoNotFound"
        return self._send(404, b"{}", {"X-Error-Code": code})

    def _tree(self, below: str, recursive: bool) -> None:
        folder = self.hub.folder / below
        if not folder.is_dir():
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        found = folder.rglob("*") if recursive else folder.iterdir()
        return self._json([self.hub.entry(path) for path in sorted(found)])

    def _file(self, path: Path) -> None:
        if not path.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        data, headers = path.read_bytes(), {"ETag": f'"{blob(path)}"', "X-Repo-Commit": self.hub.commit}
        span = self.headers.get("Range")
        if span is None:
            return self._send(200, data, headers)
        start, stop = (int(number) for number in span.removeprefix("bytes=").split("-"))
        part = data[start : stop + 1]
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(data)}"
        return self._send(206, part, headers)

    def _json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _listed(body: bytes) -> list[str]:
    try:
        return list(json.loads(body)["paths"])
    except (ValueError, KeyError, TypeError):
        return []


@contextlib.contextmanager
def serving_hub(folder: Path) -> Iterator[Hub]:
    """The Hub with the files of a folder, for this process, until the block is left."""
    hub = Hub(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.endpoint)
    try:
        with pytest.MonkeyPatch.context() as patch:  # as HF_ENDPOINT does in a new process
            patch.delenv("HF_TOKEN", raising=False)
            patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            patch.setattr(constants, "ENDPOINT", hub.endpoint)
            yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
