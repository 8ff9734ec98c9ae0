"""Jobs submitted to a Ray that was started by hand, with its token; inside a private namespace.

Run by `namespace.run_scenario` through `scenarios`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from tests.faults.harness import ROOT, START, accepted_units, accepts_of, ledger, summary, units_of, until


def working_dir(folder: Path) -> Path:
    """A small clean copy of what a job needs."""
    clean = folder / "clean"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("jobs", "pcace_dist"):
        shutil.copytree(ROOT / name, clean / name, ignore=ignored)
    for name in ("__init__.py", "planted.py", "faults/__init__.py", "faults/networks.py"):
        (clean / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "tests" / name, clean / "tests" / name)
    size = sum(path.stat().st_size for path in clean.rglob("*"))
    assert size < 4 << 20, f"{size} bytes to send to every node"
    return clean


def submit(folder: Path) -> None:
    """Jobs that succeed, are wrong, are killed, are stopped, and two ticks of a schedule; with token authentication as
    Ray has it by default."""
    clean = working_dir(folder)
    # with a token in the home folder, authentication is on wherever RAY_AUTH_MODE does not say otherwise
    subprocess.run(["ray", "get-auth-token", "--generate"], check=True, capture_output=True, timeout=60)
    start = ["ray", "start", "--head", "--num-cpus=2", "--object-store-memory=200000000", "--disable-usage-stats"]
    started = subprocess.run(start, capture_output=True, text=True, timeout=120)
    print(started.stdout[-2000:], started.stderr[-2000:], flush=True)
    assert started.returncode == 0
    assert "Token authentication is enabled" in started.stdout + started.stderr
    refused = subprocess.run(
        ["ray", "job", "list", "--address", "http://127.0.0.1:8265"],
        env=dict(os.environ) | {"RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        timeout=60,
    )
    assert refused.returncode != 0, "the cluster does not ask for the token"
    rank = ("python", "jobs/rank.py")
    for name, code, words in (("job", 0, "succeeded"), ("wrong", 1, "exit code 2")):
        done = submitted(clean, *rank, str(folder / f"{name}.json"))
        assert done.returncode == code, name
        assert words in done.stdout + done.stderr, name
    ended_and_submitted_again(clean, folder, "killed", lambda name: driver_of(name).kill(), "exit code 137")
    ended_and_submitted_again(clean, folder, "stopped", lambda name: ray_job("stop", name), "was stopped")
    two_ticks(clean, folder)
    subprocess.run(["ray", "stop", "--force"], capture_output=True, timeout=60)


def ray_job(verb: str, *arguments: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    """`ray job VERB`, with the token: the client does not look for one by itself."""
    done = subprocess.run(
        ["ray", "job", verb, "--address", "http://127.0.0.1:8265", *arguments],
        env=dict(os.environ) | {"RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    print(done.stdout[-6000:], done.stderr[-4000:], flush=True)
    return done


def submitted(clean: Path, *command: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    return ray_job("submit", "--working-dir", str(clean), *options, "--", *command)


def told(name: str) -> str:
    """What `ray job status` says."""
    done = ray_job("status", name)
    return done.stdout + done.stderr


def driver_of(name: str) -> psutil.Process:
    """The driver's process of a submitted job, known by its job file."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if line[1:2] == ["jobs/rank.py"] and line[-1].endswith(f"/{name}.json"):
                return process
    raise AssertionError(f"no driver of {name}")


def ended_and_submitted_again(clean: Path, folder: Path, name: str, end: Callable[[str], object], status: str) -> None:
    """Submit, end it in the middle by `end`, see that the job's status says so, submit again: that finishes the run."""
    output, command = folder / f"run-{name}", ("python", "jobs/rank.py", str(folder / f"{name}.json"))
    begun = submitted(clean, *command, options=("--no-wait", "--submission-id", name))
    assert begun.returncode == 0, name
    until(lambda: accepts_of(output) > 0, START, every=0.2)
    end(name)
    until(lambda: status in told(name), 60, every=1)
    before = accepted_units(ledger(output))
    assert 0 < len(before) < len(units_of(output)), name
    print(name, "ended at", len(before), "units:", summary(output), flush=True)
    assert submitted(clean, *command).returncode == 0, name
    assert accepted_units(ledger(output))[: len(before)] == before, name


def two_ticks(clean: Path, folder: Path) -> None:
    """A schedule's loop: the first tick ranks and publishes, the second finds nothing new."""
    command = ("python", "jobs/rerank.py", str(folder / "scheduled.json"), "--max-moved", "5%", "--ok", "3")
    for tick in range(2):
        assert submitted(clean, *command).returncode == 0, tick
        history = sorted((folder / "run-scheduled" / "history").glob("*.json"))
        assert len(history) == 1, history
    latest = json.loads((folder / "run-scheduled" / "latest.json").read_text())
    print("latest:", latest, flush=True)
