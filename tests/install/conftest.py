from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.install.clean import ROOT, ran


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The sources as they are committed, a wheel of them, and the examples in a folder of their own. All of it is
    removed in the end: an environment has gigabytes."""
    folder = tmp_path_factory.mktemp("install")
    for path in (ROOT / line for line in ran("git", "ls-files", cwd=ROOT).splitlines()):
        kept = folder / ("elsewhere" if path.is_relative_to(ROOT / "examples") else "sources") / path.relative_to(ROOT)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, kept)
    ran(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", "dist", "./sources", cwd=folder)
    yield folder
    shutil.rmtree(folder)
