"""A clean environment for every Python that is declared, with the newest packages that pyproject.toml allows, and one
with the oldest: its lower bounds to the letter, those of the extras too.

One environment at a time; uv keeps one copy of the packages for all of them. A ranking whose answer is known, by
threads and by Ray, and what the extras are for.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

from pcace_dist import __version__
from tests.install.clean import PROJECT, environment, ran, wheel

pytestmark = pytest.mark.install
DECLARED = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
OF_USERS = [extra for extra in PROJECT["optional-dependencies"] if extra not in ("docs", "release", "test")]
UV = [sys.executable, "-m", "uv"]
NETWORK = '''
import torch

def build():
    """Three channels, the means of red, green and blue; the first output is red's, the second is what it lacks."""
    colours, outputs = torch.nn.Conv2d(3, 3, 1, bias=False), torch.nn.Linear(3, 2)
    colours.weight.data = torch.eye(3)[:, :, None, None]
    outputs.weight.data = torch.tensor([[4.0, 0, 0], [-4, 0, 0]])
    return torch.nn.Sequential(colours, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), outputs)
'''
JOB = """
dataset: {path: images, label: label}
model: {factory: colours:build, weights: factory}
layers: ["0"]
target: {logit: 0}
output: runs/job
"""


def interpreter(version: str) -> str:
    """A Python of this version that runs, of PATH or of pyenv, whose command on PATH may be one that refuses to run."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for python in filter(shutil.which, [f"python{version}", *map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))]):
        if subprocess.run([python, "--version"], capture_output=True).returncode == 0:
            return python
    pytest.skip(f"there is no Python {version} on PATH or in {pyenv}")


def lower_bounds(*extras: str) -> list[str]:
    """The packages that are always needed and those of extras, each in the oldest version that is allowed."""
    optional = PROJECT["optional-dependencies"]
    needed = map(Requirement, [*PROJECT["dependencies"], *(line for extra in extras for line in optional[extra])])
    return [f"{one.name}=={part.version}" for one in needed for part in one.specifier if part.operator == ">="]


@pytest.fixture
def place(folder: Path) -> Iterator[Path]:
    """A folder with 600 pictures of one colour each, by how red they are, and a network. It is removed in the end, with
    the environment in it."""
    place, rng = folder / "place", np.random.default_rng(0)
    for number, colour in enumerate(rng.integers(0, 256, (600, 3), dtype=np.uint8)):
        picture = place / "images" / ("red" if colour[0] > 127 else "other") / f"{number}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.broadcast_to(colour, (16, 16, 3)).copy()).save(picture)
    (place / "colours.py").write_text(NETWORK)
    yield place
    shutil.rmtree(place)


def installed(place: Path, python: str, *requirements: str) -> dict[str, str]:
    """The variables of somebody in a new environment, with these requirements in it and nothing that is at odds."""
    venv, uv = place / "venv", {"UV_CACHE_DIR": str(place.parent / "uv")} | environment()
    ran(*UV, "venv", "--python", python, venv, cwd=place, env=uv)
    for step in (["install", *requirements], ["check"]):
        ran(*UV, "pip", step[0], "--python", venv / "bin" / "python", *step[1:], cwd=place, env=uv)
    return environment(venv / "bin") | {"UV_CACHE_DIR": uv["UV_CACHE_DIR"]}


def check_ranking(where: Path, env: dict[str, str], run: str) -> None:
    """The output is a linear function of the first channel, and the others know nothing of it."""
    shown = json.loads(ran("pcace", "show", run, "--json", cwd=where, env=env))
    red, *others = sorted(shown, key=lambda row: row["rank"])
    assert (red["layer"], red["channel"], red["images"]) == ("0", 0, 600)
    assert red["score"] > 0.99 and abs(red["effect"] - 1) < 0.01
    assert len(others) == 2 and all(row["score"] < 0.3 and abs(row["effect"]) < 0.01 for row in others)


def check_first_hour(where: Path, env: dict[str, str]) -> None:
    """Version, schema, init, check and rank, by threads and by Ray."""
    assert ran("pcace", "--version", cwd=where, env=env) == f"pcace {__version__}\n"
    model = ["--factory", "colours:build", "--weights", "factory"]
    ran("pcace", "init", *model, "--data", "images", cwd=where, env=env)
    assert json.loads(ran("pcace", "schema", cwd=where, env=env))["properties"]
    ran("pcace", "check", "job.yaml", cwd=where, env=env)
    rank = ["pcace", "rank", "job.yaml", "--set", "target={logit: 0}", "--set"]
    assert "without Ray" in ran(*rank, "output=runs/job", cwd=where, env=env)
    assert "without Ray" not in ran(*rank, "output=runs/ray", cwd=where, env=env | {"PCACE_EXECUTOR": "ray"})
    for run in ("runs/job", "runs/ray"):
        check_ranking(where, env, run)


@pytest.mark.parametrize("version", DECLARED)
def test_every_declared_python_with_the_newest_packages(version: str, folder: Path, place: Path) -> None:
    env = installed(place, interpreter(version), wheel(folder))
    assert ran("python", "--version", cwd=place, env=env).startswith(f"Python {version}.")
    check_first_hour(place, env)
    missing = ran("pcace", "report", "runs/job", "--no-synthesis", cwd=place, env=env, code=2)
    command = shlex.split(missing.partition("install them: ")[2])
    assert command[:2] == ["uv", "pip"], "uv's environments have no pip"
    ran(*UV, *command[1:], cwd=place, env=env)
    assert "report.html" in ran("pcace", "report", "runs/job", "--no-synthesis", cwd=place, env=env)


def test_the_oldest_python_with_the_oldest_packages(folder: Path, place: Path) -> None:
    env = installed(place, interpreter(DECLARED[0]), *lower_bounds(), wheel(folder))
    check_first_hour(place, env)


def test_the_extras_with_the_oldest_packages(folder: Path, place: Path) -> None:
    env = installed(place, interpreter(DECLARED[0]), *lower_bounds(*OF_USERS), f"{wheel(folder)}[{','.join(OF_USERS)}]")
    (place / "job.yaml").write_text(JOB)
    ran("pcace", "rank", "job.yaml", cwd=place, env=env)
    code = "import pcace_dist; print(len(pcace_dist.open_run('runs/job').to_pandas()) > 0)"
    assert ran("python", "-c", code, cwd=place, env=env) == "True\n"  # and ends well: no thread of Arrow's is left
    for verb in ("report", "evaluate", "select", "stability"):
        ran("pcace", verb, "runs/job", cwd=place, env=env)
    for kind in ("csv", "mlflow", "wandb"):
        export = ["pcace", "export", "runs/job", "--to", kind, "--out", kind]
        assert "files" in ran(*export, cwd=place, env=env | {"WANDB_MODE": "offline"})
