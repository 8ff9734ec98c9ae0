"""The pages by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.reference import cli, exit_codes, outputs

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference"
PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli.page,
    "exit-codes.md": exit_codes.page,
    "outputs.md": outputs.page,
}
