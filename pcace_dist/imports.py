"""Imports of a process that is pcace's own: the command, a worker of Ray. Not for programs that import the package."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PANDAS = "pandas"


@contextmanager
def quick_imports() -> Iterator[None]:
    """In the block, large libraries are imported without the collector going through their objects again and again.
    Afterwards it leaves these objects alone for good: they live as long as the process."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        _leave_pandas_out()
    finally:
        gc.freeze()
        gc.enable()


class _NoPandas:
    """A finder of modules for which there is no pandas."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == PANDAS:
            raise ModuleNotFoundError(f"{name} is not imported yet", name=name)


def _leave_pandas_out() -> None:
    """At its first value, Arrow imports pandas where it is installed (0.3 s), to know a Series when it sees one. Here
    it finds none. What needs pandas later (`to_pandas`) imports it as ever."""
    arrow = sys.modules.get("pyarrow")
    if arrow is None or PANDAS in sys.modules:
        return
    sys.meta_path.insert(0, _NoPandas)
    try:
        arrow.scalar(0)
    finally:
        sys.meta_path.remove(_NoPandas)
