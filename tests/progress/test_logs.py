"""Log lines: text by default, one JSON object a line when asked for; fields, settings, and what a whole run says."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pcace_dist.errors import JobError
from pcace_dist.progress import logs
from pcace_dist.progress.logs import JsonFormatter, LogSettings
from tests.faults.harness import ROOT, environment
from tests.planted import write_planted


def record(message: str, *args: object, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("pcace_dist.somewhere", logging.WARNING, "", 0, message, args, None)
    made.__dict__.update(fields)
    return made


def parsed(text: str) -> Any:
    assert "\n" not in text
    return json.loads(text)


@pytest.fixture
def as_json(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process writes JSON lines, and no hook of it is changed."""
    monkeypatch.setattr(logs, "_settings", LogSettings(format="json"))
    monkeypatch.setattr(logs, "_context", {"run": "runs/x"})
    yield


def test_a_json_line_has_time_level_logger_and_message() -> None:
    made = record("%d of %d", 3, 4)
    line = parsed(JsonFormatter().format(made))
    assert {name: line[name] for name in ("level", "logger", "message")} == {
        "level": "WARNING",
        "logger": "pcace_dist.somewhere",
        "message": "3 of 4",
    }
    when = datetime.fromisoformat(line["time"])
    assert when.utcoffset() == datetime.now(UTC).utcoffset()
    assert abs(when.timestamp() - made.created) < 0.001


def test_known_fields_stand_beside_the_message_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_context", {})  # other tests have run jobs in this process
    line = parsed(JsonFormatter().format(record("x", actor="a1", unit="u", attempt="t", password="secret")))
    assert (line["actor"], line["unit"], line["attempt"]) == ("a1", "u", "t")
    assert "password" not in line and "run" not in line


def test_the_run_is_a_field_of_every_line(as_json: None) -> None:
    assert parsed(JsonFormatter().format(record("x")))["run"] == "runs/x"


def test_a_json_line_is_one_line_whatever_the_message_holds() -> None:
    message = 'two\nlines, "quotes", \x1b[31m, \ud800 and ü'
    assert parsed(JsonFormatter().format(record(message)))["message"] == message


def test_an_exception_is_a_field() -> None:
    try:
        raise ValueError("no such thing")
    except ValueError:
        made = record("x")
        made.exc_info = sys.exc_info()
    assert parsed(JsonFormatter().format(made))["exception"].endswith("ValueError: no such thing")


def test_what_is_said_is_text_with_a_prefix_or_json_without(
    as_json: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.say("half done", prefix="pcace: ", images=5)
    line = parsed(capsys.readouterr().err.strip())
    assert (line["message"], line["images"], line["level"]) == ("half done", 5, "INFO")
    monkeypatch.setattr(logs, "_settings", LogSettings())
    logs.say("half done", prefix="pcace: ", images=5)
    assert capsys.readouterr().err == "pcace: half done\n"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PCACE_LOG": "loud"}, "PCACE_LOG 'loud': is not one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ({"PCACE_LOG_FORMAT": "xml"}, "PCACE_LOG_FORMAT 'xml': is not one of text, json"),
    ],
)
def test_a_wrong_setting_is_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(JobError, match=message):
        LogSettings.from_environment(environment)


def pcace(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pcace_dist", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment(**env), capture_output=True, text=True, timeout=300)


def test_a_wrong_setting_ends_a_command_with_2_in_one_line() -> None:
    done = pcace("show", "nowhere", PCACE_LOG="loud")
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["pcace: " + "PCACE_LOG 'loud': is not one of " + ", ".join(logs.LEVELS)]


@pytest.mark.parametrize("arguments", [("rank", "no-such-job.yaml"), ("show", "x", "--nonsense")])
def test_an_error_is_one_json_line_with_its_exit_code(arguments: tuple[str, ...]) -> None:
    done = pcace(*arguments, PCACE_LOG_FORMAT="json")
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (done.returncode, line["level"], line["exit_code"]) == (2, "ERROR", 2)
    assert arguments[-1] in line["message"]


def test_what_nobody_catches_is_a_json_line() -> None:
    code = (
        "import threading, warnings\n"
        "from pcace_dist.progress import logs\n"
        "logs.configure(logs.LogSettings(format='json'), run='runs/x')\n"
        "warnings.warn('old')\n"
        "t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()\n"
        "raise KeyError('a bug')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    old, thread, bug = map(json.loads, done.stderr.splitlines())
    assert done.returncode == 1
    assert "old" in old["message"] and old["logger"] == "py.warnings"
    assert thread["message"] == "ZeroDivisionError: division by zero"
    assert bug["message"] == "KeyError: 'a bug'" and "Traceback" in bug["exception"]
    assert {line["run"] for line in (old, thread, bug)} == {"runs/x"}


def lines_of_workers(ray_folder: Path) -> list[Any]:
    """What the workers of a local Ray wrote on stderr; lines that begin with a colon are Ray's own marks."""
    files = ray_folder.glob("session_2*/logs/worker-*.err")
    return [json.loads(line) for path in files for line in path.read_text().splitlines() if not line.startswith(":")]


def test_every_line_of_a_run_is_json_of_its_driver_and_of_its_workers(tmp_path: Path) -> None:
    write_planted(tmp_path / "data", 600)
    job = {
        "dataset": {"path": str(tmp_path / "data"), "label": "label"},
        "model": {"factory": "tests.planted:planted_network", "weights": "factory", "input": {"mode": "L"}},
        "layers": "all",
        "target": {"column": "exponential"},
        "statistics": {"components": 1, "pilot": 300},
        "workers": {"max": 1},
        "output": str(tmp_path / "run"),
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    with tempfile.TemporaryDirectory(prefix="ray-") as ray_folder:  # short: sockets lie below it
        done = pcace(
            "rank", str(tmp_path / "job.json"), PCACE_LOG="INFO", PCACE_LOG_FORMAT="json", RAY_TMPDIR=ray_folder
        )
        assert done.returncode == 0, done.stderr
        driver = [json.loads(line) for line in done.stderr.splitlines()]
        workers = lines_of_workers(Path(ray_folder) / "ray")
    ours = [line for line in driver if line["logger"].startswith("pcace_dist")]
    assert {line["run"] for line in ours} == {str(tmp_path / "run")}
    assert any(line.get("stage") == "ranking" and line["images"] == 600 for line in ours)
    (recorded,) = {line["attempt"] for line in ours if "is recorded" in line["message"]}
    assert {line["attempt"] for line in workers if "is written" in line["message"]} == {recorded}
    units = [line for line in workers if "unit" in line]
    assert sum(line["rows"] for line in units) == 600
    assert {(line["run"], line["actor"]) for line in units} == {(str(tmp_path / "run"), "a0001")}
    assert "rankings:" in done.stdout
