"""Hooks never stop what calls them, never outlive their time, and never print a secret."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from pcace_dist.cli.main import main
from pcace_dist.commands import hooks
from pcace_dist.commands.hooks import Hooks, call_hooks, check_url

CONTENT = {"path": "runs/x", "comparison": "runs/x/comparison.json", "drift": ["more moved"], "secret": 1}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://host/a b", "space"),
        ("http://[::1", "IPv6"),
        ("http://host:port/", "Port"),
        ("http://user:sesame@host/", "credentials"),
        ("ftp://host/", "http"),
        ("http://", "http"),
        ("http://höst/", "character"),
        ("http://host/\n", "character"),
    ],
)
def test_an_address_that_cannot_be_asked_is_refused_at_the_start(
    url: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=said):
        check_url(url)
    with pytest.raises(SystemExit) as ended:
        main(["rerank", "job.yaml", "--webhook", url])
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert (
        printed.startswith("pcace rerank: argument --webhook: the address ") or "IPv6" in printed or "Port" in printed
    )
    assert "sesame" not in printed and printed.count("\n") == 1


def test_an_address_that_can_be_asked_comes_back() -> None:
    assert check_url("https://host:8080/path?token=x%20y") == "https://host:8080/path?token=x%20y"


@pytest.fixture
def forbidding() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(403)

        def log_message(self, *_: object) -> None:
            return None

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/sesame"
        server.shutdown()


def test_what_a_webhook_answers_is_said_without_its_address(
    forbidding: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    call_hooks(Hooks(webhook=forbidding), CONTENT)
    printed = capsys.readouterr().err
    assert "--webhook: 127.0.0.1 answered 403; the run is published all the same" in printed
    assert "sesame" not in printed


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/sesame", "http://host/sesame x", "http://[::1", "http://[sesame]/"]
)
def test_a_webhook_that_cannot_be_asked_is_a_warning(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    call_hooks(Hooks(webhook=url), CONTENT)
    printed = capsys.readouterr().err
    assert "published all the same" in printed and "sesame" not in printed


@pytest.mark.parametrize(
    ("command", "said"), [("exit 9", "ended with exit code 9"), ("true \0 sesame", "cannot be started (ValueError)")]
)
def test_a_command_that_fails_is_a_warning(command: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    call_hooks(Hooks(command=command), CONTENT)
    printed = capsys.readouterr().err
    assert f"--hook: {said}; the run is published all the same" in printed
    assert "sesame" not in printed


def test_a_command_that_hangs_ends_with_all_that_it_has_started(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "HOOK_SECONDS", 0.3)
    call_hooks(Hooks(command="sleep 94713 & wait # sesame"), CONTENT)
    printed = capsys.readouterr().err
    assert "did not end within 0.3 s" in printed and "sesame" not in printed
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "94713"]]


def test_a_command_that_reads_nothing_is_no_fault(capsys: pytest.CaptureFixture[str]) -> None:
    call_hooks(Hooks(command="true"), CONTENT | {"long": "x" * 1_000_000})
    assert capsys.readouterr().err == ""
