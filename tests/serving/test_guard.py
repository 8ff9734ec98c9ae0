"""Who is answered, what may be asked for, and what a browser may do with it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from starlette.testclient import TestClient

from pcace_dist.cli.main import main
from pcace_dist.serving.catalog import Catalog
from pcace_dist.serving.pages import app_of
from pcace_dist.storage.files import Storage
from tests.analysis.runs import write_run
from tests.serving.conftest import Serve


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_done_but_reading(folder: Path, serve: Serve, method: str) -> None:
    client = serve(folder)
    for page in ("/", "/run?run=team/monday", "/report?run=team/monday"):
        assert client.request(method, page).status_code == 405
        assert client.head(page).status_code in (200, 404) and client.head(page).content == b""


@pytest.mark.parametrize(
    "host, answered",
    [
        ("127.0.0.1:8777", True),
        ("localhost:8777", True),
        ("[::1]:8777", True),
        ("192.168.1.5:8777", True),  # an address cannot be rebound
        ("runs.example.org", True),  # the name that --host gave
        ("evil.example.com", False),
        ("127.0.0.1.evil.example.com", False),
        ("localhost.evil.example.com:8777", False),
        ("", False),
    ],
)
def test_foreign_names_are_refused(folder: Path, serve: Serve, host: str, answered: bool) -> None:
    client = serve(folder, host="runs.example.org")
    assert client.get("/", headers={"host": host}).status_code == (200 if answered else 421)


@pytest.mark.parametrize("page", ["/", "/run?run=team/monday", "/none", "/run?run=none", "/assets/serve.js"])
def test_every_answer_has_the_policy(folder: Path, serve: Serve, page: str) -> None:
    headers = serve(folder).get(page).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ") and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store" and "server" not in headers


def test_pages_hold_no_script_or_style_of_their_own(folder: Path, serve: Serve) -> None:
    client = serve(folder)
    for page in ("/", "/run?run=team/monday", "/compare?run=team/monday&run=team/tuesday", "/none"):
        text = client.get(page).text
        assert (
            text.count("<script") == 1 and "style=" not in text and "<style" not in text and " on" + "click" not in text
        )


@pytest.mark.parametrize(
    "name",
    [
        *("..", "../..", "/etc", "team/../team/monday", "team/monday/../../..", "to-team/monday", ".hidden/run"),
        *("notes", "team", "%2e%2e", "team/monday/", "team//monday", "./team/monday", "team/monday\0", "as-0.1.0/runs"),
    ],
)
@pytest.mark.parametrize("page", ["/run", "/report", "/status.json", "/ranking.json", "/bad_rows.csv"])
def test_only_what_was_found_can_be_asked_for(folder: Path, serve: Serve, page: str, name: str) -> None:
    assert serve(folder).get(page, params={"run": name}).status_code == 404


@pytest.mark.parametrize(
    "path", ["/../etc/passwd", "/assets/../pages.py", "/assets/serve.py", "/assets/serve.", "/etc/passwd"]
)
def test_no_path_leads_to_a_file(folder: Path, serve: Serve, path: str) -> None:
    client = serve(folder)
    assert client.get(path.replace("..", "%2e%2e")).status_code == 404


def test_links_are_not_followed(tmp_path: Path, serve: Serve) -> None:
    write_run(tmp_path / "run", {"conv1": np.linspace(0.1, 0.9, 4)})
    secret = tmp_path / "secret.html"
    secret.write_text("secret")
    (tmp_path / "run/report.html").symlink_to(secret)
    client = serve(tmp_path)
    assert client.get("/report?run=run").status_code == 404
    assert "report.html is a symbolic link" in client.get("/run?run=run").text
    (tmp_path / "again").symlink_to(tmp_path)  # a circle
    assert len(client.get("/runs.json").json()["runs"]) == 1


@pytest.mark.parametrize("file", ["job.yaml", "rankings.parquet", "bad_rows.parquet"])
def test_what_a_link_leads_to_is_on_no_page(tmp_path: Path, serve: Serve, file: str) -> None:
    for name in ("run", "other"):
        write_run(tmp_path / name, {"conv1": np.linspace(0.1, 0.9, 4)}, targets=(f"column:of_{name}",))
    shutil.rmtree(tmp_path / "run/ledger")  # without its digests nothing else would tell the files apart
    elsewhere = (tmp_path / "other").rename(tmp_path / ".other")
    (tmp_path / "run" / file).unlink(missing_ok=True)
    (tmp_path / "run" / file).symlink_to(elsewhere / file)
    client = serve(tmp_path)
    page = client.get("/run?run=run")
    assert page.status_code == 200 and f"{file} is a symbolic link" in page.text and "of_other" not in page.text
    for name in ("ranking.json", "ranking.csv", "bad_rows.csv", "status.json"):
        answer = client.get(f"/{name}?run=run")
        assert answer.status_code == 400 and answer.text == f"run: {file} is a symbolic link; links are not followed\n"


def test_an_unforeseen_error_has_the_policy_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(Catalog(str(folder), Storage({}))) as catalog:
        monkeypatch.setattr(catalog, "look", lambda: 1 / 0)
        client = TestClient(app_of(catalog, "runs", "h"), base_url="http://127.0.0.1", raise_server_exceptions=False)
        answer = client.get("/")
    assert answer.status_code == 500 and "something unforeseen happened (ZeroDivisionError)" in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")


def line_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("pcace serve: ")
    return error


def test_what_cannot_be_served_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert "none: is no folder" in line_of(["serve", str(tmp_path / "none")], capsys)
    assert "file: is no folder" in line_of(["serve", str(tmp_path / "file")], capsys)
    assert "gs://b: runs lie in a local folder" in line_of(["serve", "gs://b"], capsys)
    error = line_of(["serve", str(tmp_path), "--host", "0.0.0.0"], capsys)
    assert "--host 0.0.0.0: others on the network could read these runs" in error and "--public" in error
    assert "no name or address" in line_of(["serve", str(tmp_path), "--host", "no.such.name.invalid"], capsys)


def test_a_port_in_use_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = str(used.getsockname()[1])
        error = line_of(["serve", str(tmp_path), "--port", port], capsys)
    assert f"--port {port}: is in use on 127.0.0.1; take another" in error


def test_without_the_extra_the_line_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pcace_dist.errors.util.find_spec", lambda name: None if name == "uvicorn" else object())
    error = line_of(["serve", str(tmp_path)], capsys)
    assert "needs packages of the extra `serve`; install them: " in error and "pip install" in error


def test_the_address_is_printed_and_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a Ctrl-C, which uvicorn raises again once it has ended, is a good end."""
    opened = threading.Event()
    urls: list[str] = []

    def interrupted(_: uvicorn.Server, sockets: list[socket.socket]) -> None:
        urls.append(f"http://127.0.0.1:{sockets[0].getsockname()[1]}/")
        assert opened.wait(30)
        sockets[0].close()
        raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "run", interrupted)

    def open_url(url: str) -> None:
        urls.append(url)
        opened.set()

    monkeypatch.setattr("webbrowser.open", open_url)
    assert main(["serve", str(tmp_path), "--port", "0", "--open", "--public"]) == 0
    address = f"runs below {tmp_path}: {urls[0]}   (Ctrl-C ends it)"
    assert capsys.readouterr().out.splitlines() == [address] and urls[0] == urls[1]
    monkeypatch.setattr("pcace_dist.serving.server._is_loopback", lambda _: False)
    assert main(["serve", str(tmp_path), "--port", "0", "--public"]) == 0
    warning, _ = capsys.readouterr().out.splitlines()
    assert warning == "others on the network can read these runs: there is no login"
