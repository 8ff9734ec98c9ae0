"""Every tutorial, how-to and the README, run as they stand on small data (recipes.py says what each is given)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.given import GIVEN
from tests.docs.pages import ROOT, blocks
from tests.docs.recipes import RECIPES
from tests.docs.runner import run_page

pytestmark = pytest.mark.apps


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of what a name of GIVEN stands for, made when it is first asked for."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            place = tmp_path_factory.mktemp(name)
            GIVEN[name](place)
            made[name] = place
        return made[name]

    return folder


@pytest.mark.parametrize("page", RECIPES)
def test_the_page_runs(page: str, given: Callable[[str], Path], tmp_path: Path) -> None:
    recipe = RECIPES[page]
    for name in recipe.given:
        shutil.copytree(given(name), tmp_path, symlinks=True, dirs_exist_ok=True)
    printed = run_page(
        [block for block in blocks("sh", "console", "python", "yaml") if block.page == ROOT / page], recipe, tmp_path
    )
    assert "Traceback" not in printed
