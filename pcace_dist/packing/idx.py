"""The idx format of the MNIST files: a header of big-endian sizes, then the values. Pure; no I/O.

Source: the description on the page of the MNIST database (LeCun, Cortes, Burges).
"""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import numpy as np

from pcace_dist.errors import DatasetError

GZIP = b"\x1f\x8b"
KINDS = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(data: bytes, name: str) -> np.ndarray[Any, np.dtype[Any]]:
    """The array that idx bytes hold, gzipped or plain. Raises DatasetError naming the file `name`."""
    if data.startswith(GZIP):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            raise DatasetError(f"{name}: broken gzip file") from None
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in KINDS or len(data) < 4 + 4 * data[3]:
        raise DatasetError(f"{name}: not an idx file")
    kind, axes = np.dtype(KINDS[data[2]]), data[3]
    shape = tuple(int(n) for n in np.frombuffer(data, dtype=">u4", count=axes, offset=4))
    start = 4 + 4 * axes
    wanted = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    if len(data) - start != wanted:
        raise DatasetError(f"{name}: {len(data) - start} bytes of values where the header says {wanted}")
    return np.frombuffer(data, dtype=kind, offset=start).reshape(shape)
