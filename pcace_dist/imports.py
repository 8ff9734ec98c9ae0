"""Imports of a process that is pcace's own: the command, a worker of Ray. Not for programs that import the package."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """In the block, large libraries are imported without the collector going through their objects again and again.
    Afterwards it leaves these objects alone for good: they live as long as the process. So nothing but imports belongs
    into the block."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
