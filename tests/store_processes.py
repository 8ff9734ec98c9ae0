"""What the processes of test_store.py run; imports little, for each of them is a fresh interpreter."""

from __future__ import annotations

from typing import Any

from pcace_dist.storage.store import LocalStore


def race(root: str, who: int, start: Any, wins: Any) -> None:
    start.wait()
    for i in range(20):
        if LocalStore(root).put_if_absent(f"ledger/{i}", str(who).encode()):
            wins.put((i, who))


def put_for_ever(root: str, ready: Any) -> None:
    store, i = LocalStore(root), 0
    while True:
        i += 1
        store.put("replaced", bytes([i % 251]) * 2_000_000)
        store.put_if_absent(f"created/{i}", bytes([i % 251]) * 2_000_000)
        if i == 3:
            ready.set()
