"""How this process asks the system for memory: freed memory is kept for the next batch instead of given back.

A pass allocates the same large maps and images batch after batch. glibc returns each of them to the system and gets it
back as pages that have to be filled with zeros anew: measured, 13 % (float32) and 18 % (bfloat16) of a ResNet-18's
forward pass, and 8 % of decoding photographs. Kept memory is bounded by what the process needs at its peak anyway.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import pyarrow as pa

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
NEVER = 2**31 - 1
DEFAULTS = {M_MMAP_MAX: 65536, M_TRIM_THRESHOLD: 128 << 10}  # of glibc


def keep_memory() -> bool:
    """From now on this process keeps what it frees; True if that could be set (glibc), False elsewhere."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    pa.set_memory_pool(pa.system_memory_pool())  # its own gives memory back as well
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))


@contextlib.contextmanager
def memory_restored() -> Iterator[None]:
    """After the block this process gives memory back again, what it has kept in it too."""
    pool = pa.default_memory_pool()
    try:
        yield
    finally:
        pa.set_memory_pool(pool)
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(None)
            for parameter, value in DEFAULTS.items():
                library.mallopt(parameter, value)
        give_back()


def give_back() -> None:
    """Gives back to the system now what this process has freed; glibc and Arrow keep what was freed in small pieces."""
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
