"""summary.json: how a run went. Written while it works, and last of all when it ends."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from pcace_dist.artifacts.checked import parse_json
from pcace_dist.config.job import FORMAT_VERSION
from pcace_dist.ledger.ledger import RunState
from pcace_dist.storage.store import Store

PACKAGES = ("pcace-dist", "ray", "torch", "torchvision", "numpy", "scipy", "pyarrow")
DONE = "done"  # outcomes: with exit code 0, and the others with 4
TOO_MANY_BAD_ROWS = "too_many_bad_rows"
NOTHING_RANKED = "nothing_ranked"


def summary_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The content of summary.json, as plain JSON without NaN."""
    content = {"format_version": FORMAT_VERSION, **values, "versions": versions()}
    plain: dict[str, Any] = json.loads(json.dumps(content), parse_constant=lambda _: None)
    return plain


def publish_summary(store: Store, summary: Mapping[str, Any]) -> None:
    """summary.json: written while the run works (outcome `running`) and last of all when it ends."""
    store.put("summary.json", summary_bytes(summary))


def summary_bytes(summary: Mapping[str, Any]) -> bytes:
    return (json.dumps(summary, indent=2, sort_keys=False) + "\n").encode()


def versions() -> dict[str, str]:
    """Of Python and the libraries that results depend on; Numba's is in the numeric class, as it may be missing."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def recorded_summary(store: Store, state: RunState) -> dict[str, Any]:
    """The summary; empty where there is none. Raises Damaged."""
    recorded = (state.done or {}).get("summary")
    return read_summary(store) if recorded is None else dict(recorded)


def read_summary(store: Store) -> dict[str, Any]:
    """summary.json as it is; empty if there is none. Raises Damaged."""
    return parse_json(store.get("summary.json") or b"{}", f"{store.url}/summary.json")
