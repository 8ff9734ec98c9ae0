"""python -m tests.reference: writes the pages of docs/reference/ anew from the code."""

from __future__ import annotations

from tests.reference.pages import FOLDER, PAGES

FOLDER.mkdir(exist_ok=True)
for name, page in PAGES.items():
    (FOLDER / name).write_text(page())
    print(f"docs/reference/{name}")
