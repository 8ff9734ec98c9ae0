"""torchvision without the compiler of torch.compile, whose import takes most of torchvision's: 0.2 s in place of 1.5.

Two places of torchvision import the compiler only for the case that something is compiled. While torchvision is
imported, stand-ins take their place, which do the same and load the compiler when they are needed. Where torchvision or
the compiler is loaded already, nothing is done.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

COMPILER = "torch._dynamo"
_USED = f"{COMPILER}.utils"  # torchvision.ops.roi_align takes `is_compile_supported` from it
_disable = torch.compiler.disable  # torchvision.tv_tensors.wrap is decorated by it


class _Later(ModuleType):
    """Stands for a module of the compiler."""

    def __getattr__(self, name: str) -> Any:
        if name == "is_compile_supported":
            return lambda device: _real().is_compile_supported(device)
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_real(), name)


def _real() -> Any:
    if isinstance(sys.modules.get(_USED), _Later):
        del sys.modules[_USED]
    return import_module(_USED)


def _disable_later(fn: Callable[..., Any] | None = None, *arguments: Any, **settings: Any) -> Any:
    """`torch.compiler.disable`, which loads the compiler only once something else has done so."""
    if fn is None or arguments or settings:
        return _disable(fn, *arguments, **settings)  # type: ignore[no-untyped-call]
    disabled = functools.cache(lambda: _disable(fn))  # type: ignore[no-untyped-call]

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (disabled() if COMPILER in sys.modules else fn)(*args, **kwargs)

    return call


@contextmanager
def _without_the_compiler() -> Iterator[None]:
    if COMPILER in sys.modules or "torchvision" in sys.modules:
        yield
        return
    sys.modules[_USED] = _Later(_USED)
    torch.compiler.disable = _disable_later
    try:
        yield
    finally:
        torch.compiler.disable = _disable
        if isinstance(sys.modules.get(_USED), _Later):
            del sys.modules[_USED]


with _without_the_compiler():
    import torchvision
    import torchvision.io  # registers torch.ops.image
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

__all__ = ["InterpolationMode", "functional", "torchvision"]
