"""A model's code is part of what it is: an edit that computes something else is another digest, a comment is none."""

from __future__ import annotations

import importlib
import linecache
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torchvision
from torch import nn

from pcace_dist.models.source import code_digest

NET = '''
"""A network."""
import helping
from torch import nn

class Net(nn.Module):
    """Doubles."""
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
    def forward(self, x):
        return helping.twice(self.fc(x))  # said twice

def build():
    return Net()
'''
HELPING = "def twice(x):\n    return 2 * x\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("nett", "helping"):
        sys.modules.pop(name, None)


def digest(folder: Path, net: str = NET, helping: str = HELPING) -> str | None:
    (folder / "nett.py").write_text(net)
    (folder / "helping.py").write_text(helping)
    for name in ("nett", "helping"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    linecache.clearcache()
    for cached in folder.rglob("*.pyc"):
        cached.unlink()
    model: nn.Module = importlib.import_module("nett").build()
    return code_digest(model, "nett:build")


def test_comments_docstrings_and_formatting_change_nothing(folder: Path) -> None:
    first = digest(folder)
    assert first is not None
    other = (
        NET.replace("# said twice", "")
        .replace('"""Doubles."""', "")
        .replace("return helping", "\n        return helping")
    )
    assert digest(folder, other) == first


def test_an_edit_of_what_is_computed_is_another_digest_also_in_a_helper(folder: Path) -> None:
    first = digest(folder)
    assert digest(folder, NET.replace("self.fc(x)", "self.fc(-x)")) != first
    assert digest(folder, helping=HELPING.replace("2 * x", "3 * x")) != first
    assert digest(folder) == first


def test_library_code_has_no_digest() -> None:
    assert code_digest(torchvision.models.squeezenet1_1(weights=None), "torchvision:squeezenet1_1") is None
