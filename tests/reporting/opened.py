"""Reads a written report back: its packed data, channels and pictures."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image


class OpenedReport:
    """The elements of a page by their ids."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text(encoding="utf-8")
        self.scripts = dict(re.findall(r'<script type="[^"]*" id="([^"]*)">(.*?)</script>', self.text, re.DOTALL))
        self.data: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(self.scripts["packed-data"])))

    def channel(self, layer: str, channel: int) -> dict[str, Any]:
        """A channel's content; every tile with what is kept once for its image."""
        index = self.data["pages"].index([layer, channel])
        content: dict[str, Any] = json.loads(self.scripts[f"channel-{index}"])
        seen = content.pop("seen")
        for tile in _tiles(content):
            tile |= seen[str(tile["row"])]
        return content

    def image(self, row: int) -> npt.NDArray[np.float64]:
        return pixels(self.scripts[f"image-{row}"])


def _tiles(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict) and "row" in value:
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _tiles(inner)


def pixels(url: str, mode: str = "L") -> npt.NDArray[np.float64]:
    """A data URL as an array of 0 to 1."""
    data = base64.b64decode(url.split(",", 1)[1])
    return np.asarray(Image.open(io.BytesIO(data)).convert(mode), np.float64) / 255


def numbers(column: dict[str, str]) -> npt.NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(column["f32"]), "<f4")
