"""ImageNet-like folders drawn from a seed: JPEGs of the usual sizes in synset folders, some of them damaged."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("n01440764", "n01443537", "n01484850", "n01491361", "n01494475")
DAMAGES = 4  # kinds


def jpeg(seed: int, width: int = 96, height: int = 72) -> bytes:
    """Blurred noise of its own for each seed, as a JPEG of a few kilobytes."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def damaged(seed: int) -> bytes:
    """In turn: nothing, text, a JPEG cut in its middle, a JPEG's first bytes alone."""
    whole = jpeg(seed)
    return (b"", b"<html>404</html>", whole[: len(whole) // 2], whole[:20])[seed % DAMAGES]


def write_folders(root: Path, images: int, bad: int, classes: tuple[str, ...] = CLASSES) -> list[str]:
    """`images` good JPEGs over the classes and `bad` damaged ones between them; the damaged ones' keys, sorted."""
    every = images // max(1, bad)
    names: list[str] = []
    for i in range(images):
        folder = root / classes[i % len(classes)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{folder.name}_{i}.JPEG").write_bytes(jpeg(i))
        if bad and i % every == 0 and len(names) < bad:
            (folder / f"{folder.name}_{i}x.JPEG").write_bytes(damaged(len(names)))
            names.append(f"{folder.name}/{folder.name}_{i}x.JPEG")
    return sorted(names)
