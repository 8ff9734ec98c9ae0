"""device.py runs where torch, torchvision, numpy and pyarrow are, and nothing else of what pcace needs."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "benchmarks" / "device.py"
BARE = {"torch", "torchvision", "numpy", "pyarrow", "PIL"}  # torchvision brings Pillow
PYTHON = "python3.12"
PACKAGES = ["torch==2.11.*", "torchvision==0.26.*", "numpy>=2", "pyarrow"]  # a release behind those of the pins
AWAY = ("ray", "boto3", "pydantic", "numba", "scipy", "xxhash", "pcace_dist")


def at_import(path: Path) -> Iterator[str]:
    """Modules that a file imports when it is imported itself: not those in functions, nor for types only."""
    statements: list[ast.AST] = list(ast.parse(path.read_text()).body)
    while statements:
        node = statements.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            statements += [*node.body, *node.orelse]
        elif isinstance(node, ast.Try | ast.ClassDef):
            statements += node.body


def file_of(module: str) -> Path | None:
    """The file of a module of this project; None for others, and for what is no module."""
    path = ROOT.joinpath(*module.split("."))
    return next((one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()), None)


def test_what_it_imports_is_on_such_a_box() -> None:
    waiting, seen, others = [SCRIPT], set[Path](), set[str]()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        for module in at_import(path):
            parts = module.split(".")
            parents = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
            found = {file for file in map(file_of, parents) if file is not None}
            waiting += found - seen
            if parts[0] not in ("pcace_dist", "tests", *sys.stdlib_module_names):
                others.add(parts[0])
    assert len(seen) > 20 and {"torch", "pyarrow"} <= others
    assert others <= BARE


@pytest.mark.install
@pytest.mark.timeout(1800)  # the packages are 3 GB
def test_it_runs_in_an_environment_with_these_alone(tmp_path: Path) -> None:
    python = shutil.which(PYTHON)
    if python is None or subprocess.run([python, "--version"], capture_output=True).returncode:
        pytest.skip(f"there is no {PYTHON} that runs")
    venv = tmp_path / "venv"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_"))}
    try:
        subprocess.run([python, "-m", "venv", venv], check=True, env=env)
        inside = venv / "bin" / "python"
        subprocess.run([inside, "-m", "pip", "install", "-q", *PACKAGES], check=True, env=env)
        listed = subprocess.run([inside, "-m", "pip", "list"], check=True, env=env, capture_output=True, text=True)
        assert not [name for name in AWAY if f"\n{name} " in listed.stdout]
        quick = [
            "--quick",
            "--networks",
            "resnet18",
            "--device",
            "cpu",
            "--batch",
            "2",
            "--json",
            str(tmp_path / "a.json"),
        ]
        subprocess.run([inside, "-m", "tests.benchmarks.device", *quick], check=True, env=env, cwd=ROOT)
    finally:
        shutil.rmtree(venv, ignore_errors=True)  # it has gigabytes
    found = {entry["case"]: entry for entry in json.loads((tmp_path / "a.json").read_text())}
    assert found["device"]["kind"].startswith("cpu: ")
    pixels = found["input, pixels"]
    assert (pixels["not torchvision's"], pixels["other bits alone"], pixels["other verdicts"]) == (0, 0, 0)
    assert {"resnet18, 1 layer", "resnet18, all layers", "resnet18 fed, decode: cpu"} <= found.keys()
