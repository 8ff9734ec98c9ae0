"""What lies in the working directory is run only where a job's factory asks for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.planted import write_planted

JOB = """
dataset: {path: data, label: label}
model: {factory: "pcace_own_net:net", weights: random, input: {mode: L}}
layers: all
target: {output: 0}
output: run
"""
NET = "from torch import nn\nimport pcace_own_helper\ndef net():\n    return pcace_own_helper.net()\n"
HELPER = """
from torch import nn
def net():
    return nn.Sequential(nn.Conv2d(1, 4, 4, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
"""
TRAP = "open({mark!r}, 'a').write(__file__ + '\\n')\nraise RuntimeError(__file__)\n"
NAMES = ["boto3", "captum", "colorsys", "csv", "json", "numba", "numpy", "pandas", "psutil", "pyarrow", "random", "ray"]
NAMES += ["rich", "scipy", "secrets", "statistics", "tarfile", "torch", "torchvision", "uuid", "yaml", "zipfile"]
ENTRY = "import sys; sys.argv[0] = 'pcace'; from pcace_dist.cli.main import entry; entry()"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a job, its factory, and files that are called as modules of libraries."""
    folder = tmp_path_factory.mktemp("work")
    write_planted(folder / "data", 128, shards=1)
    (folder / "job.yaml").write_text(JOB)
    (folder / "pcace_own_net.py").write_text(NET)
    (folder / "pcace_own_helper.py").write_text(HELPER)
    for name in NAMES:
        (folder / f"{name}.py").write_text(TRAP.format(mark=str(folder / "executed")))
    return folder


def pcace(folder: Path, arguments: Sequence[str]) -> subprocess.Popen[str]:
    """The installed command (`-P`: like a console script, which is not started from the working directory)."""
    command = [sys.executable, "-P", "-c", ENTRY, *arguments]
    return subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_files_called_as_libraries_are_not_run(folder: Path) -> None:
    ranked = pcace(folder, ["rank", "job.yaml"])
    _, errors = ranked.communicate(timeout=120)
    assert ranked.returncode == 0, errors  # the factory beside the job, and what it imports, are found
    shutil.copytree(folder / "run", folder / "other")
    verbs = ["show run", "status run", "compare run other"]
    started = {verb: pcace(folder, verb.split()) for verb in verbs}
    said = {verb: process.communicate(timeout=120) for verb, process in started.items()}
    codes = {verb: process.returncode for verb, process in started.items()}
    assert codes == dict.fromkeys(verbs, 0), said
    assert "output:0" in said["show run"][0]
    assert not (folder / "executed").exists(), (folder / "executed").read_text()


def test_a_ray_worker_looks_for_libraries_first(monkeypatch: pytest.MonkeyPatch) -> None:
    from pcace_dist.executors.search_path import libraries_first

    rays, own = "/lib/site-packages/ray/thirdparty_files", ["/home/me", "/home/me/jobs"]
    there = [rays, "/lib/site-packages/ray/_private/workers", "/lib", "/lib/site-packages"]
    monkeypatch.setattr(sys, "path", [*own, *there])
    libraries_first()
    assert sys.path == [*own, *there], "this is no worker of Ray's"
    monkeypatch.setattr(sys, "argv", ["/lib/site-packages/ray/_private/workers/default_worker.py", "--node-ip"])
    for _ in range(2):
        libraries_first()
        assert sys.path == [*there, *own]
