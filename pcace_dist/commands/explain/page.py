"""explain.html: an explanation as one file without scripts, in the report's style; nothing is loaded from elsewhere."""

from __future__ import annotations

import re
from typing import Any

from pcace_dist.analysis.publish import write_bytes, write_json
from pcace_dist.commands.explain.explained import MEANINGS, Explained
from pcace_dist.errors import require_packages
from pcace_dist.reporting.glossary import GLOSSARY
from pcace_dist.reporting.page import fill
from pcace_dist.storage.files import Storage, normalised

LONGEST = 80  # characters of a folder's name


def need_packages() -> None:
    """Raise NotInstalled where the page's package is missing: before anything is computed."""
    require_packages("the page of pcace explain", "report", "jinja2")


def page(explained: Explained) -> bytes:
    """The page. Names are escaped."""
    return fill("explain.html.j2", it=explained, says=GLOSSARY | MEANINGS, number=number, signed=signed)


def number(value: float | None, digits: int = 3) -> str:
    return "" if value is None or value != value else f"{value:,.{digits}f}"


def signed(value: Any, digits: int = 3) -> str:
    """With its sign; a true minus."""
    return "" if value is None or value != value else f"{value:+,.{digits}f}".replace("-", "\u2212")


def folder_of(image: str) -> str:
    """The folder for an explanation where none is given: in this directory, by the image's name."""
    name = re.sub(r"[^\w.#-]", "_", image.rstrip("/").rpartition("/")[2])[:LONGEST]
    return f"{name or 'image'}-explained"


def write_explained(explained: Explained, folder: str, storage: Storage) -> None:
    """explain.json, then explain.html. Raises OutputError."""
    content = page(explained)
    folder = normalised(folder)
    write_json(explained.to_json(), f"{folder}/explain.json", storage, option="--out")
    write_bytes(content, f"{folder}/explain.html", storage, option="--out")
