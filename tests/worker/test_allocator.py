"""Freed memory is kept: the same large arrays again and again cost no new pages."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource, sys
import numpy as np
from pcace_dist.worker.allocator import keep_memory

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "keep" and not keep_memory():
    print("unavailable")
    raise SystemExit
for _ in range(3):
    np.ones(40 << 20, np.uint8)
before = pages()
for _ in range(5):
    np.ones(40 << 20, np.uint8)
print(pages() - before)
"""


def pages_of(how: str) -> str:
    return subprocess.run([sys.executable, "-c", CODE, how], check=True, capture_output=True, text=True).stdout.strip()


def test_arrays_of_the_same_size_need_no_new_pages() -> None:
    pages = pages_of("keep")
    if pages == "unavailable":
        pytest.skip("another C library than glibc")
    assert int(pages) < 100 < int(pages_of("usual"))  # 40 MiB are 10,240 pages of 4 KiB, or 20 of 2 MiB
