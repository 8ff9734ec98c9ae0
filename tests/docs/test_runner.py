"""How a page becomes a script, and that no tutorial or how-to is left out of it (tests/docs/test_run.py runs them)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, blocks, listed
from tests.docs.recipes import NOT_RUN, RECIPES
from tests.docs.runner import Recipe, run_page

PAGE = Path("page.md")
RUN = ("sh", "console", "python")
TO_RUN = {"README.md", *listed("Tutorials"), *listed("How to")}
WITH_BLOCKS = {str(block.page.relative_to(ROOT)) for block in blocks(*RUN)}


def test_blocks_run_in_order_and_files_are_written(tmp_path: Path) -> None:
    page = [
        Block(PAGE, "yaml", "# job.yaml: all there is\nlayers: [conv1]\n"),
        Block(PAGE, "python", "# mine.py\nVALUE = 3\n"),
        Block(PAGE, "sh", "export WORD=mine   # stays\ncat job.yaml \\\n  mine.py\n"),
        Block(PAGE, "console", "$ echo shown\nshown\n"),
        Block(PAGE, "", "what comes out\n"),
        Block(PAGE, "yaml", "layers: [conv2]   # a part of a job\n"),
        Block(PAGE, "python", "import os\n\nfrom mine import VALUE\n"),
        Block(PAGE, "python", "print(os.environ['WORD'], VALUE)\n"),
    ]
    assert run_page(page, Recipe(), tmp_path).splitlines() == [
        "# job.yaml: all there is",
        "layers: [conv1]",
        "# mine.py",
        "VALUE = 3",
        "shown",
        "mine 3",
    ]


def test_a_recipe_puts_other_things_in_and_leaves_lines_out(tmp_path: Path) -> None:
    page = [Block(PAGE, "sh", "echo s3://bucket/x\nkubectl apply\n"), Block(PAGE, "python", "print(model + 1)\n")]
    recipe = Recipe(
        before="echo first",
        names="model = 1",
        check="assert model == 1",
        instead={"s3://bucket": "here"},
        skipped={"kubectl": "there is no cluster"},
    )
    assert run_page(page, recipe, tmp_path).split() == ["first", "here/x", "2"]


def test_a_command_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the page stops at: ls nowhere"):
        run_page([Block(PAGE, "sh", "true\nls nowhere\necho later\n")], Recipe(), tmp_path)


def test_every_page_with_blocks_is_run_or_has_its_reason() -> None:
    assert not set(RECIPES) & set(NOT_RUN)
    assert {*RECIPES, *NOT_RUN} == TO_RUN | WITH_BLOCKS


def test_blocks_say_what_they_are_in_one_way() -> None:
    assert not blocks("bash", "shell", "py", "yml"), "write sh, console, python or yaml"


@pytest.mark.parametrize("page", RECIPES)
def test_what_a_recipe_names_stands_in_its_page(page: str) -> None:
    said = [block.text for block in blocks(*RUN, "yaml") if block.page == ROOT / page]
    assert said, "nothing to run: give the reason in NOT_RUN"
    for words in (*RECIPES[page].instead, *RECIPES[page].skipped):
        assert any(words in text for text in said), words


@pytest.mark.parametrize("page", RECIPES)
def test_commands_stand_in_blocks_that_are_run(page: str) -> None:
    text = re.sub(r"^( *)```(sh|console|python|yaml)\n.*?^\1```", "", (ROOT / page).read_text(), flags=re.S | re.M)
    assert re.findall(r"^ *(?:\$ )?pcace \w+ .*", text, re.M) == []


@pytest.mark.parametrize(("page", "reason"), NOT_RUN.items())
def test_a_reason_names_tests_that_are_there(page: str, reason: str) -> None:
    for path in re.findall(r"tests/\S+\.py", reason):
        assert (ROOT / path).is_file(), path
    if not re.search(r"tests/\S+\.py", reason):
        assert not [block for block in blocks(*RUN) if block.page == ROOT / page], "its blocks can be run"
