"""What the pages tell people to type is right: commands parse, job files are job files, Python is Python."""

from __future__ import annotations

import ast
import shlex
import textwrap
from importlib import import_module
from typing import Any

import pytest
import yaml

from pcace_dist.cli.main import build_parser
from pcace_dist.config.job import parse_job
from tests.docs.pages import PAGES, Block, blocks, commands

JOB: dict[str, Any] = {
    "dataset": {"path": "shards"},
    "model": {"factory": "torchvision:resnet18", "weights": "random"},
    "layers": ["layer4"],
    "target": {"logit": "label"},
    "output": "runs/job",
}
"""What a part of a job file is added to."""


def test_the_pages_are_found() -> None:
    assert len(PAGES) > 30 and len(list(commands())) > 20


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_have_the_arguments_that_they_are_given(page: str, line: str) -> None:
    build_parser().parse_args(shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.name)
def test_yaml_is_a_job_file_or_a_part_of_one(block: Block) -> None:
    part = yaml.safe_load(block.text)
    sections = {key: {**JOB[key], **value} for key, value in part.items() if key in ("dataset", "model")}
    parse_job({**JOB, **part, **sections})


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.name)
def test_python_is_python_and_what_it_imports_of_ours_is_there(block: Block) -> None:
    for node in ast.walk(ast.parse(textwrap.dedent(block.text))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(("pcace_dist", "examples")):
            module = import_module(str(node.module))
            assert all(hasattr(module, one.name) for one in node.names)
