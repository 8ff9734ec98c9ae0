"""examples/mnist/in_memory.ipynb: small, executed as it stands, and executed anew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "mnist" / "in_memory.ipynb"


def cells_of(notebook: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def kinds_of(cell: Mapping[str, Any]) -> set[str]:
    """What a cell shows: text or HTML, progress, lines on stderr."""
    return {kind for output in cell["outputs"] for kind in output.get("data", {output.get("name", "error"): ""})}


def test_it_is_executed_from_top_to_bottom_and_small() -> None:
    text = NOTEBOOK.read_text()
    cells = cells_of(json.loads(text))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell["outputs"] for cell in cells[1:]) and not any("error" in kinds_of(cell) for cell in cells)
    assert len(text) < 200_000 and str(NOTEBOOK.parents[2]) not in text


@pytest.mark.apps
def test_it_shows_the_same_when_it_is_executed_anew(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    shutil.copytree(NOTEBOOK.parent, tmp_path / "mnist")
    stored, again = (nbformat.read(NOTEBOOK, as_version=4) for _ in range(2))
    NotebookClient(again, timeout=300, resources={"metadata": {"path": str(tmp_path / "mnist")}}).execute()
    assert list(map(kinds_of, cells_of(again))) == list(map(kinds_of, cells_of(stored)))
    (shown,) = (output for output in cells_of(again)[2]["outputs"] if output["output_type"] == "execute_result")
    html = shown["data"]["text/html"]
    assert html.count("<tr>") == 25 and html.count("<img") > 24
