"""Loops that PyTorch has no operation for, as machine code by Numba; loaded only where that pays.

Loading the compiler takes about LOADING seconds in every process, and a second or two more for each loop where none
was cached. So what has a slower way with the same bits asks `pays` first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

from pcace_dist.errors import StatisticsError

LOADING = 1.0  # seconds
_saved = [0.0]  # seconds that loops would have saved in this process


@lru_cache(maxsize=1)
def has_numba() -> bool:
    return sys.byteorder == "little" and find_spec("numba") is not None


def version() -> str:
    """The compiler of the loops, for the numeric class; "none" where there is none."""
    if not has_numba():
        return "none"
    from importlib.metadata import version as installed

    return f"numba {installed('numba')}"


def pays(seconds: float) -> bool:
    """Whether a loop that saves so many seconds is to be used: once all that could have been saved in this process is
    as long as loading takes. Then the waste is never more than that time. The answer may make no difference to bits.
    """
    _saved[0] += seconds
    return _saved[0] >= LOADING and has_numba()


@cache
def compiler() -> ModuleType:
    """Numba, imported here: it takes a third of a second, and only large work needs it."""
    try:
        module = import_module("numba")
        _saved[0] += LOADING  # the others need not wait until they pay
        return module
    except ImportError as error:
        raise StatisticsError(f"numba is installed, but cannot be imported: {error}; install it anew") from error


@cache
def machine_code(
    loop: Callable[..., None], *, fused: bool = True, calls: tuple[Callable[..., None], ...] = ()
) -> Callable[..., None]:
    """A loop over arrays as machine code; cached on disk where possible, so that it is compiled once. Bits are those
    that the source says. But where `fused`, a product and a sum may be one operation with one rounding (FMA).

    calls: the functions that it calls, of its own module (a change there compiles it anew)."""
    numba = compiler()
    settings: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    if fused:
        settings["fastmath"] = {"contract"}
    for function in calls:
        numba.extending.register_jitable(**settings)(function)
    try:
        return numba.njit(cache=True, **settings)(loop)  # type: ignore[no-any-return]
    except RuntimeError:  # neither the package's folder nor the user's cache can be written to
        return numba.njit(**settings)(loop)  # type: ignore[no-any-return]


def in_slices(work: Callable[[slice], None], count: int) -> None:
    """Work on `count` things, some in each thread: as many threads as torch's own operations use."""
    if not count:
        return
    threads = min(torch.get_num_threads(), count)
    slices = [slice(count * i // threads, count * (i + 1) // threads) for i in range(threads)]
    if threads == 1:
        work(slices[0])
    else:
        list(_pool(threads).map(work, slices))


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="pcace-loop")
