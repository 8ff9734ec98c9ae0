"""The pages of docs/reference/ are what the code says now."""

from __future__ import annotations

import pytest

from pcace_dist.cli.main import build_parser
from tests.reference.pages import FOLDER, PAGES


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_what_the_code_says(name: str) -> None:
    assert (FOLDER / name).read_text() == PAGES[name](), "run `make reference`"


def test_there_are_no_other_pages() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(PAGES)


@pytest.mark.parametrize("verb", build_parser().verbs())
def test_every_argument_says_what_it_is_and_its_default(verb: str) -> None:
    for action in build_parser().verbs()[verb]._actions:
        assert action.help, f"pcace {verb}: {action.dest}"
        if action.default not in (None, False, [], (), "==SUPPRESS=="):
            assert "default" in action.help, f"pcace {verb}: {action.dest} {action.default!r}"
