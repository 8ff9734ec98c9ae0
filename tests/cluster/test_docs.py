"""The pages about clusters: every command has the arguments it is given, every file that is named is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pcace_dist.cli.main import build_parser

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("cluster-security", "estimate", "monitoring", "operations", "ray-cluster")
PAGES = [*(ROOT / "docs" / f"{name}.md" for name in NAMES), ROOT / "cluster" / "README.md"]
TEXT = {page.name: page.read_text() for page in PAGES}


def commands() -> list[str]:
    lines = [line for text in TEXT.values() for line in re.findall(r"^ *(pcace \w+ .*?)(?:\s+#.*)?$", text, re.M)]
    return sorted(set(lines))


@pytest.mark.parametrize("line", commands())
def test_commands_have_the_arguments_they_are_given(line: str) -> None:
    build_parser().parse_args(shlex.split(line)[1:])


def submitted() -> list[str]:
    lines = [line for text in TEXT.values() for line in re.findall(r"python (jobs/\w+\.py [^`\n#]*)", text)]
    return sorted({line.strip() for line in lines})


@pytest.mark.parametrize("line", submitted())
def test_scripts_that_are_submitted_are_there_and_take_their_arguments(line: str) -> None:
    script, *arguments = line.split()
    assert (ROOT / script).is_file()
    build_parser().parse_args([Path(script).stem, *arguments])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_targets_that_are_named_are_there(page: Path) -> None:
    text = page.read_text()
    for path in re.findall(r"`((?:cluster|docs|tests|pcace_dist)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"(?:-k|ray (?:up|down|dashboard)) (cluster/[\w./-]+)", text):
        assert (ROOT / path).exists(), path
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^ *)make ([\w-]+)", text, re.M):
        assert re.search(rf"^[\w -]*\b{target}\b[\w -]*:", makefile, re.M), target


def test_every_exit_code_has_its_row() -> None:
    rows = re.findall(r"^\| (\d) \|", TEXT["operations.md"], re.M)
    assert rows == ["0", "1", "2", "3", "4", "5"]
