"""The rooms of the house: who may import whom, how large a room may be, and what the public surface is.

docs/architecture.md says what each room is for. Imports point from the upper rooms to those below, so that a change in
a room concerns those above it only.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import pcace_dist

PACKAGE = Path(pcace_dist.__file__).parent

# From the ground up. Each room may import itself, errors, and the rooms that are named.
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "imports": set(),
    "vision": set(),
    "progress": set(),
    "storage": set(),
    "statistics": set(),
    "datasets": {"vision", "progress", "storage"},
    "packing": {"progress", "storage", "datasets"},
    "config": {"progress", "storage", "datasets"},
    "models": {"vision", "statistics", "config"},
    "ledger": {"storage"},
    "artifacts": {"storage", "statistics", "models", "datasets", "config", "ledger"},
    "checks": {"statistics", "models", "datasets", "config"},
    "worker": {"progress", "storage", "statistics", "models", "datasets", "config", "ledger", "artifacts", "checks"},
    "executors": {"imports", "progress", "storage", "models", "packing", "config", "worker"},
    "run": {"progress", "storage", "statistics", "models", "datasets", "packing", "config", "ledger", "artifacts"}
    | {"imports", "worker", "executors", "checks"},
    "analysis": {"progress", "storage", "statistics", "models", "datasets", "config", "artifacts"},
    "reporting": {"progress", "storage", "statistics", "models", "datasets", "config", "artifacts", "analysis"},
    "commands": {"progress", "storage", "statistics", "models", "datasets", "config", "ledger", "artifacts", "worker"}
    | {"executors", "run", "analysis", "reporting", "checks", "packing"},
    "serving": {"progress", "storage", "config", "ledger", "artifacts", "run", "analysis"},
    "api": {"models", "config", "artifacts", "run", "analysis", "reporting", "commands"},
    "cli": {"progress", "statistics", "models", "datasets", "packing", "config", "artifacts", "executors", "run"}
    | {"imports", "analysis", "reporting", "commands", "checks", "serving"},
}
MOST_FILES = 22  # of a room, __init__.py among them
MOST_LINES = 0.17  # of the package's


def tree() -> str:
    """The rooms with their files, lines and first sentence."""
    lines = []
    for room in ROOMS:
        folder = PACKAGE / room
        files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
        first = (ast.get_docstring(ast.parse((files[0]).read_text())) or "").splitlines()[0]
        lines.append(f"  {room:11}{len(files):4} files {sum(map(lines_of, files)):6} lines  {first}")
    return "\n" + "\n".join(lines)


def lines_of(path: Path) -> int:
    return path.read_text().count("\n")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, also inside functions and for types only."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    room = room_of(path)
    for module in imports_of(path):
        top, *rest = module.split(".")
        if top == "ray":
            assert room == "executors", f"{path} imports Ray outside executors/{tree()}"
        if top == "pcace_dist" and rest and room in ROOMS and rest[0] in ROOMS:
            allowed = ROOMS[room] | {room, "errors"}
            assert rest[0] in allowed, f"{path} imports {module}{tree()}"


def test_the_order_of_the_rooms_is_an_order() -> None:
    below: set[str] = set()
    for room, allowed in ROOMS.items():
        assert allowed <= below, f"{room} imports rooms above it: {allowed - below}{tree()}"
        below.add(room)


def test_no_module_imports_itself_through_others() -> None:
    modules = {module_of(path): path for path in FILES}
    graph = {
        name: {other for other in imports_of(path) if other in modules and other != name}
        for name, path in modules.items()
    }
    for name in graph:  # a package's own __init__.py is imported with each of its modules, whatever they name
        graph[name] -= {name.rpartition(".")[0]}
    while leaves := [name for name, others in graph.items() if not others & graph.keys()]:
        for leaf in leaves:
            del graph[leaf]
    circle = {name: sorted(others & graph.keys()) for name, others in graph.items()}
    assert not circle, f"modules that import one another: {circle}"


def test_every_room_is_named_here_and_no_room_is_too_large() -> None:
    found = {room_of(path) for path in FILES} - {"__init__", "__main__"}
    assert found == set(ROOMS), tree()
    files = Counter(path.parent for path in FILES)
    lines = Counter({room: sum(lines_of(path) for path in FILES if room_of(path) == room) for room in ROOMS})
    assert max(files.values()) <= MOST_FILES, tree()
    assert max(lines.values()) <= MOST_LINES * lines.total(), tree()


@pytest.mark.parametrize("room", ["statistics", "models", "datasets", "storage", "packing"])
def test_the_lower_rooms_do_without_pydantic_and_boto3_at_import(room: str) -> None:
    modules = [module_of(path) for path in (PACKAGE / room).rglob("*.py") if path.stem != "__init__"]
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
        "check",
        "compare",
        "evaluate",
        "explain",
        "export",
        "layers",
        "load_job",
        "maximal_correlation",
        "open_run",
        "rank",
        "rank_model",
        "report",
        "select",
    ]
    for name in pcace_dist.__all__:
        assert getattr(pcace_dist, name) is not None
        assert name == "__version__" or name in str(pcace_dist.__doc__) or name in ("Job", "Run")


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, pcace_dist, pcace_dist.cli.main\n"
        "heavy = {'torch', 'ray', 'pyarrow', 'numpy', 'pydantic', 'rich', 'boto3'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_module_says_what_it_is_for() -> None:
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md", "docs/reliability.md", "docs/pipeline.md"])
def test_pages_name_files_that_are_there(page: str) -> None:
    root = PACKAGE.parent
    named = re.findall(r"`((?:tests|docs|[a-z]+)/[a-z_0-9/]+\.(?:py|md))`", (root / page).read_text())
    missing = [name for name in named if not ((PACKAGE / name).exists() or (root / name).exists())]
    assert named and not missing, f"{page} names files that are not there: {missing}"


def test_pages_name_tests_that_are_there() -> None:
    root = PACKAGE.parent
    named = re.findall(r"`(?:tests/)?([a-z_0-9/]+\.py)::(\w+)", (root / "docs" / "reliability.md").read_text())
    files = {path.relative_to(root / "tests"): path.read_text() for path in (root / "tests").rglob("test_*.py")}
    missing = [
        f"{name}::{test}"
        for name, test in named
        if not any(path.match(name) and f"def {test}(" in text for path, text in files.items())
    ]
    assert named and not missing, f"docs/reliability.md names tests that are not there: {missing}"
