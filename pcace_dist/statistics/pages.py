"""Large long-lived tensors in memory mappings of their own, so that they do not fragment the memory of the batches.

A worker keeps freed memory for the next batch (worker.allocator). Sums and codes between the maps of the batches would
fragment that memory, and the next maps would need more of it: measured, 221 MiB for 41 MiB of codes. Pages that are
mapped for one tensor are returned to the system with it, and take memory only when they are written to.
"""

from __future__ import annotations

import math
import mmap

import numpy as np
import torch
from torch import Tensor

LEAST_BYTES = 1 << 16  # smaller tensors are not worth a mapping


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """Zeros. On a CPU, from LEAST_BYTES on, they have pages of their own, which take memory only when written to."""
    size = math.prod(shape) * dtype.itemsize
    if torch.device(device).type != "cpu" or size < LEAST_BYTES or not hasattr(mmap, "MAP_ANONYMOUS"):
        return torch.zeros(shape, dtype=dtype, device=device)
    try:
        mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:  # too many mappings
        return torch.zeros(shape, dtype=dtype)
    return torch.from_numpy(np.frombuffer(mapping, np.uint8)).view(dtype).reshape(shape)


def converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The same integers as `dtype`: the tensor itself where it has that dtype, else a copy in pages of its own."""
    if tensor.dtype == dtype or tensor.device.type == "meta":
        return tensor.to(dtype)
    return zeros(tuple(tensor.shape), dtype, tensor.device).copy_(tensor)


def copied(tensor: Tensor) -> Tensor:
    """A copy, in pages of its own where it is large."""
    return zeros(tuple(tensor.shape), tensor.dtype, tensor.device).copy_(tensor)
