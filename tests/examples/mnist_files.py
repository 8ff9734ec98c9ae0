"""MNIST's idx files, made from the images that lie as Parquet beside the project or in the example."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


def write_idx(folder: Path, part: str, images: Bytes, labels: npt.NDArray[np.integer]) -> None:
    """`part` (train or t10k) as the two idx files of MNIST: images uint8 (n, 28, 28), labels (n,)."""
    folder.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">IIII", 0x00000803, *images.shape)
    (folder / f"{part}-images-idx3-ubyte").write_bytes(header + np.ascontiguousarray(images, np.uint8).tobytes())
    header = struct.pack(">II", 0x00000801, len(labels))
    (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.astype(np.uint8).tobytes())
