"""A RAY_ADDRESS that cannot be joined is one line, soon, that says what would do."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from pcace_dist.config.job import parse_job
from pcace_dist.errors import JobError
from pcace_dist.executors import ray_session
from pcace_dist.run.rank import run_job

SETTINGS_FRAME = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
HTTP_ANSWER = b"HTTP/1.1 400 Bad Request\r\n\r\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not started Ray, and less patient."""
    monkeypatch.setattr(ray_session, "_runs_here", lambda: False)
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    monkeypatch.setattr(ray_session, "CONNECT_SECONDS", 0.0)
    monkeypatch.setattr(ray_session, "GREETING_SECONDS", 0.5)


@contextlib.contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """Address of a server that says one thing to everyone; None: nothing, and it keeps the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    held.append(connection)
                    if answer is not None:
                        connection.recv(100)
                        connection.sendall(answer)
                        connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in held:
            connection.close()


def refusal(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(JobError) as raised:
        ray_session.check_address()
    line = str(raised.value)
    assert "\n" not in line and line.startswith("RAY_ADDRESS ") and "ray job submit --address http://" in line
    return line


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "https://ray.example.org", "http://head:8265/"])
def test_the_dashboards_address_is_for_submitting(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"RAY_ADDRESS {address}: is an address of the dashboard" in refusal(address, monkeypatch)


def test_ray_client_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Ray Client (ray://) is not supported" in refusal("ray://127.0.0.1:10001", monkeypatch)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "head", "head:", ":6379", "head:port", "head:0", "head:65536", "head:-1", "head:٣", "LOCAL", " ",
     "anyscale://cluster", "tcp://head:6379", "a b:6379", "head:6379/x", "user:pw@head:6379", "[::1", "::", "[]:6379"],
)  # fmt: skip
def test_what_is_no_address_is_refused_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is not host:port" in refusal(address, monkeypatch)


def test_passwords_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("http://user:secret@head:8265", "ray://user:secret@head:10001", "user:secret@head:6379"):
        assert "secret" not in refusal(address, monkeypatch)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "no-such-host.invalid:6379", "..:6379"])
def test_an_address_where_nothing_answers_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nothing answers at" in refusal(address, monkeypatch)


@pytest.mark.parametrize(
    "answer, said",
    [
        (HTTP_ANSWER, "speaks HTTP, as the dashboard does"),
        (b"", "does not answer as the head of a Ray cluster does"),
        (b"220 mail.example.org ESMTP\r\n", "does not answer as the head of a Ray cluster does"),
        (None, "does not answer as the head of a Ray cluster does"),
    ],
)
def test_a_port_of_something_else_is_refused(answer: bytes | None, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(answer) as address:
        assert said in refusal(address, monkeypatch)


def test_a_port_that_speaks_as_rays_head_does_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(SETTINGS_FRAME) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        ray_session.check_address()


@pytest.mark.parametrize("address", ["", "local"])
def test_a_local_ray_needs_no_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    ray_session.check_address()


def test_auto_without_a_ray_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_is_there(*_: object) -> str:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr("ray._private.services.get_ray_address_from_environment", none_is_there)
    assert "RAY_ADDRESS auto: no Ray runs on this machine" in refusal("auto", monkeypatch)


def test_auto_that_leads_to_a_ray_that_is_gone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray._private.services.get_ray_address_from_environment", lambda *_: "127.0.0.1:1")
    assert "RAY_ADDRESS auto: nothing answers at 127.0.0.1:1" in refusal("auto", monkeypatch)


def test_a_job_is_refused_before_its_model_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    model = {"factory": "no.such.module:model", "weights": "random"}
    job = {"dataset": {"path": "nowhere", "label": "label"}, "model": model, "layers": ["a"]}
    with pytest.raises(JobError, match="RAY_ADDRESS"):
        run_job(parse_job(job | {"target": {"logit": "label"}, "output": f"{tmp_path}/run"}))


def test_what_ray_says_in_many_lines_is_one() -> None:
    said = RuntimeError(
        "Version mismatch: The cluster was started with:\n    Ray: 2.0\n\nTo fix this, either:\n  - a\n"
    )
    line = ray_session._in_one_line(said)
    assert line == "Version mismatch: The cluster was started with: Ray: 2.0 To fix this, either: - a"
    assert ray_session._in_one_line(RuntimeError()) == "RuntimeError"


def test_a_traceback_in_what_ray_says_is_left_out() -> None:
    said = RuntimeError("Failed to connect to GCS.\nTraceback (most recent call last):\n  File ...")
    assert ray_session._in_one_line(said) == "Failed to connect to GCS."


def test_a_driver_away_from_all_nodes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray._private.services.find_node_ids", lambda: [])
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(JobError, match=r"RAY_ADDRESS head:6379: no node of a Ray cluster runs on this machine; "):
        ray_session._check_node_here()


@pytest.mark.parametrize("address, wanted, named", [(None, 0, 0), ("", 0, 0), ("local", 1, 0), ("10.0.0.1:6379", 1, 1)])
def test_ray_address_asks_for_ray(
    address: str | None, wanted: int, named: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert (ray_session.is_wanted(), ray_session.names_a_cluster()) == (bool(wanted), bool(named))


ENDING = """
import json, ray
from pcace_dist.executors.ray_session import ray_session
node, end = ray._private.worker, ray.shutdown
left = {}
def shutdown():
    left.update({kind: infos[0].process for kind, infos in node._global_node.all_processes.items()})
    end()
ray.shutdown = shutdown
with ray_session():
    started = set(node._global_node.all_processes)
print(json.dumps([sorted(started - set(left)), {kind: process.returncode for kind, process in left.items()}]))
"""


@pytest.mark.cluster
def test_ray_waits_for_none_of_its_processes_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray.shutdown` kills what has not ended a second after it was told to: that was the autoscaler."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    done = subprocess.run([sys.executable, "-c", ENDING], check=True, capture_output=True, text=True)
    ended_before, codes = json.loads(done.stdout.splitlines()[-1])
    assert ended_before == ["monitor"] and {"raylet", "gcs_server"} <= set(codes)
    assert not [kind for kind, code in codes.items() if code in (None, -signal.SIGKILL)]
