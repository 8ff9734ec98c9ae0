"""The rooms of the house: imports point one way, only service/ imports Ray, and the public surface is what it says."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pcace_dist

PACKAGE = Path(pcace_dist.__file__).parent

READERS = {"run", "checked", "datasets", "models", "statistics", "errors", "job", "places"}  # of finished runs
ALLOWED = {
    "statistics": {"statistics", "errors"},
    "models": {"models", "statistics", "errors"},
    "datasets": {"datasets", "statistics", "errors"},
    "checked.py": {"datasets", "errors"},
    "records.py": {"errors"},
    "service": {"service", "checked", "records", "datasets", "models", "statistics", "errors", "job", "logs", "places"},
    "analysis": READERS | {"analysis", "terminal"},
    "report": READERS | {"report", "analysis", "bar"},
    "places.py": {"datasets", "job"},
    "terminal.py": {"errors"},
    "logs.py": {"errors", "terminal"},
    "bar.py": {"logs"},
}


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0]
    for module in imports_of(path):
        top, *rest = module.split(".")
        if top == "ray":
            assert room == "service", f"{path} imports Ray outside service/"
        if top == "pcace_dist" and rest and room in ALLOWED:
            assert rest[0] in ALLOWED[room], f"{path} imports {module}"


@pytest.mark.parametrize("room", ["statistics", "models", "datasets"])
def test_rooms_below_the_service_do_without_pydantic_and_boto3_at_import(room: str) -> None:
    modules = [f"pcace_dist.{room}.{path.stem}" for path in (PACKAGE / room).glob("*.py") if path.stem != "__init__"]
    code = (
        "import sys\n"
        "for name in ('ray', 'boto3', 'pydantic'):\n"
        "    sys.modules[name] = None\n"
        f"for name in {modules!r}:\n"
        "    __import__(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_are_the_documented_ones() -> None:
    assert sorted(n for n in pcace_dist.__all__ if n != "__version__") == [
        "Job",
        "Run",
        "load_job",
        "maximal_correlation",
        "open_run",
        "rank",
    ]
    for name in pcace_dist.__all__:
        assert getattr(pcace_dist, name) is not None
        assert name == "__version__" or name in str(pcace_dist.__doc__) or name in ("Job", "Run")


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, pcace_dist, pcace_dist.cli\n"
        "heavy = {'torch', 'ray', 'pyarrow', 'numpy', 'pydantic', 'rich', 'boto3'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_module_says_what_it_is_for() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"
