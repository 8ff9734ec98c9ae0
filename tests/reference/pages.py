"""The pages by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.reference import cli, exit_codes, job, metrics, outputs, python

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference"
PAGES: dict[str, Callable[[], str]] = {
    "job.md": job.page,
    "job.schema.json": job.schema_text,
    "cli.md": cli.page,
    "exit-codes.md": exit_codes.page,
    "outputs.md": outputs.page,
    "python.md": python.page,
    "metrics.md": metrics.page,
}
