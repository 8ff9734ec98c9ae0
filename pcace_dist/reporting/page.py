"""Puts data, pictures and assets into one HTML file that needs no network. Text from data is escaped; HTML comes only
from the template.

The page's numbers are compressed JSON. Every channel and every picture is a separate element, which the browser decodes
only when it is shown.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

SCRIPTS = (
    "data.js",
    "dom.js",
    "figure.js",
    "state.js",
    "filters.js",
    "pair.js",
    "overview.js",
    "table.js",
    "channel.js",
    "evidence.js",
    "views.js",
    "comparison.js",
    "concepts.js",
    "trust.js",
    "paper.js",
    "main.js",
)


@dataclass(frozen=True)
class PageContent:
    """The content of a page: a title, JSON data, JSON for each channel, and pictures (data URLs) by row number."""

    title: str
    data: Mapping[str, Any]
    channels: Sequence[Mapping[str, Any]]
    pictures: Mapping[int, str]


def floats(values: npt.ArrayLike) -> dict[str, str]:
    """An array as base64 float32 for the page's `floats` (data.js); NaN stays NaN."""
    return {"f32": base64.b64encode(np.asarray(values, "<f4").reshape(-1).tobytes()).decode()}


def numbers(values: npt.ArrayLike, digits: int = 5) -> list[Any]:
    """A small array as plain JSON numbers with so many significant digits, null for NaN."""
    flat = np.asarray(values, np.float64)
    if flat.ndim > 1:
        return [numbers(row, digits) for row in flat]
    return [float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in flat.tolist()]


def render(content: PageContent) -> bytes:
    """The page. jinja2 and plotly come with the extra `report`."""
    from plotly.offline import get_plotlyjs

    return fill(
        "page.html.j2",
        title=content.title,
        scripts=[_asset(name) for name in SCRIPTS],
        plotly=_packed(get_plotlyjs().encode()),
        data=_packed(_json(content.data).encode()),
        channels=[_json(channel) for channel in content.channels],
        pictures=dict(content.pictures),
    )


def fill(template: str, **values: Any) -> bytes:
    """A page from one of the assets' templates, in the report's style. Values are escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_asset(template)).render(style=_asset("report.css"), **values).encode()


def _asset(name: str) -> str:
    return (files("pcace_dist.reporting") / "assets" / name).read_text(encoding="utf-8")


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


def _json(value: Any) -> str:
    """JSON that is safe inside a script element."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
