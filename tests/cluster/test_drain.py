"""drain.py sees the clouds' notices and the workers that are left. On a real cluster: tests/faults/test_clusters.py."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from cluster import drain

Answers = dict[tuple[str, str], str]


class Metadata(BaseHTTPRequestHandler):
    """A cloud's metadata service: what is not in `answers` is 404; requests without the right header are 403."""

    answers: ClassVar[Answers]
    needs: ClassVar[dict[str, str]]

    def _answer(self) -> None:
        text = self.answers.get((self.command, self.path))
        lacking = [k for k, v in self.needs.items() if self.command == "GET" and self.headers.get(k) != v]
        self.send_response(403 if lacking else 404 if text is None else 200)
        self.end_headers()
        self.wfile.write(b"" if text is None or lacking else text.encode())

    do_GET = do_PUT = _answer

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def metadata() -> Iterator[tuple[str, type[Metadata]]]:
    handler = type("Handler", (Metadata,), {"answers": {}, "needs": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_notice_of_ec2_is_seen_with_a_token(metadata: tuple[str, type[Metadata]]) -> None:
    url, service = metadata
    assert not drain.aws_notice(url)  # no token to be had
    service.answers[("PUT", "/latest/api/token")] = "secret"
    service.needs["X-aws-ec2-metadata-token"] = "secret"
    assert not drain.aws_notice(url)
    service.answers[("GET", "/latest/meta-data/spot/instance-action")] = '{"action": "terminate"}'
    assert drain.aws_notice(url)


def test_the_notice_of_compute_engine_is_seen(metadata: tuple[str, type[Metadata]]) -> None:
    url, service = metadata
    service.needs["Metadata-Flavor"] = "Google"
    service.answers[("GET", "/computeMetadata/v1/instance/preempted")] = "FALSE"
    assert not drain.gcp_notice(url)
    service.answers[("GET", "/computeMetadata/v1/instance/preempted")] = "TRUE"
    assert drain.gcp_notice(url)


def test_nobody_there_is_no_notice() -> None:
    assert not drain.aws_notice("http://127.0.0.1:9")
    assert not drain.gcp_notice("http://127.0.0.1:9")


def test_workers_are_known_by_their_titles(tmp_path: Path) -> None:
    for pid, title in (("17", b"ray::Worker.work\0"), ("18", b"ray::IDLE\0"), ("19", b"python\0-m\0x\0")):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_bytes(title)
    (tmp_path / "20").mkdir()  # gone meanwhile
    assert drain.workers(tmp_path) == [17]


def test_waiting_ends_when_the_time_is_over() -> None:
    assert drain.wait(lambda: True, 0.0)
    assert not drain.wait(lambda: False, 0.05, every=0.01)


def test_a_refused_drain_is_a_failure() -> None:
    assert not drain.drain(1, ray="false")
