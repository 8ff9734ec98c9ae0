"""Runs a scenario in private PID, network and mount namespaces, with a /tmp/ray and a HOME of its own.

Fixed ports and `ray stop --force` are then harmless, and whatever a scenario leaves behind ends with its namespace.
Needs root.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.harness import ROOT, environment

SCRIPT = """
set -e
ip link set lo up
mkdir -p /tmp/ray
mount -t tmpfs -o size=4g tmpfs /tmp/ray
exec "$@"
"""
UNSHARE = ("unshare", "--fork", "--pid", "--net", "--mount", "--mount-proc", "--kill-child")


def run_scenario(name: str, folder: Path, seconds: float, *, module: str = "tests.faults.scenarios") -> str:
    """Run `MODULE NAME FOLDER`; what it printed. Skips where namespaces are not allowed."""
    _skip_without_namespaces()
    home = folder / "home"
    home.mkdir()
    env = environment(
        HOME=str(home),
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        RAY_USAGE_STATS_ENABLED="0",
        PYTHONUNBUFFERED="1",
    )
    command = [*UNSHARE, "bash", "-c", SCRIPT, "_", sys.executable, "-m", module, name, str(folder)]
    log = folder / f"{name}.out"
    with log.open("wb") as sink:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=sink, stderr=subprocess.STDOUT)
        try:
            code = process.wait(seconds)
        finally:
            process.kill()  # --kill-child: the first process of the namespace goes with it, and so all others
            process.wait()
    text = log.read_text(errors="replace")
    assert code == 0, text[-6000:]
    return text


def _skip_without_namespaces() -> None:
    try:
        tried = subprocess.run([*UNSHARE, "ip", "link", "set", "lo", "up"], capture_output=True, text=True, timeout=30)
    except FileNotFoundError as error:
        pytest.skip(f"private namespaces need {error.filename}")
    if tried.returncode:
        pytest.skip(f"private namespaces need root: {tried.stderr.strip()}")
