"""Settings of torch in this process with which the same batch gives the same bits; and how to undo them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import torch


def set_deterministic(threads: int, *, strict: bool = True) -> None:
    """Set up torch in this process so that the same batch gives the same bits.

    `threads` for each operation; deterministic algorithms only (with `strict`, an operation without one is an error,
    else a warning); no benchmark mode; no TF32 or other reduced precision inside float32 products.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts; it must not choose by itself
    torch.set_num_threads(threads)
    deterministic_only(True, warn_only=not strict)
    # filling new memory costs time, and nothing reads it before it is written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")


def deterministic_only(wanted: bool, *, warn_only: bool = False) -> None:
    """`torch.use_deterministic_algorithms`, which would load the compiler of torch.compile (a second and more) only to
    tell it. So the compiler is told only where it is loaded."""
    if "torch._inductor" in sys.modules:
        torch.use_deterministic_algorithms(wanted, warn_only=warn_only)
    else:
        torch.set_deterministic_debug_mode(("warn" if warn_only else "error") if wanted else "default")


@contextlib.contextmanager
def settings_restored() -> Iterator[None]:
    """Restores the settings that `set_deterministic` changes within the block."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    cudnn = torch.backends.cudnn
    cudnn_flags = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32
    matmul = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        deterministic_only(deterministic, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = cudnn_flags
        torch.set_float32_matmul_precision(matmul)
