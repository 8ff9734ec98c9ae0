"""The contact sheet: what the model sees, with what it says and what the labels say."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pcace_dist.datasets.decoding.thumbnail import as_image

SIDE = 132  # pixels of a picture
COLUMNS = 8
MOST = 64
LINE = 14  # pixels of a line of text
CHARACTERS = 20
GOOD, BAD, PLAIN = "#2e7d32", "#c62828", "#666666"


def contact_sheet(images: Tensor, captions: Sequence[tuple[str, ...]], right: Sequence[bool | None]) -> bytes:
    """A PNG of at most MOST pictures, evenly chosen.

    images: (n, C, H, W), as decoded, resized and cropped, before mean and std; captions: n, lines of text; right:
    n, whether the model agrees with the label (None: no label), which colours the frame.
    """
    chosen = [int(place) for place in np.linspace(0, len(images) - 1, min(MOST, len(images)))]
    lines = max((len(captions[place]) for place in chosen), default=0)
    width, height = SIDE + 8, SIDE + 12 + lines * LINE
    rows = -(-len(chosen) // COLUMNS)
    sheet = Image.new("RGB", (min(COLUMNS, len(chosen)) * width, rows * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for number, place in enumerate(chosen):
        left, top = number % COLUMNS * width, number // COLUMNS * height
        colour = PLAIN if right[place] is None else GOOD if right[place] else BAD
        draw.rectangle((left + 2, top + 2, left + SIDE + 5, top + SIDE + 5), outline=colour, width=2)
        picture = _picture(images[place])
        sheet.paste(picture, (left + 4 + (SIDE - picture.width) // 2, top + 4 + (SIDE - picture.height) // 2))
        for line, text in enumerate(captions[place]):
            draw.text((left + 4, top + SIDE + 8 + line * LINE), _short(text), fill=colour, font=font)
    data = io.BytesIO()
    sheet.save(data, "PNG")
    return data.getvalue()


def _picture(image: Tensor) -> Image.Image:
    picture = as_image(image)
    scale = (SIDE - 2) / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BILINEAR)


def _short(text: str) -> str:
    return text if len(text) <= CHARACTERS else f"{text[: CHARACTERS - 1]}…"
