"""What a run says of itself in job.yaml and summary.json; of a finished run what its ledger says of them. No torch, no
Ray."""

from __future__ import annotations

from typing import Any

from pcace_dist.artifacts.checked import parse_json, parsing
from pcace_dist.ledger.ledger import RunState
from pcace_dist.storage.store import Store


def recorded_job(store: Store, state: RunState) -> str | None:
    """The resolved job as YAML; None where there is none. Raises Damaged."""
    text = (state.done or {}).get("job")
    if text is not None:
        return str(text)
    data = store.get("job.yaml")
    with parsing(f"{store.url}/job.yaml"):
        return None if data is None else data.decode()


def recorded_summary(store: Store, state: RunState) -> dict[str, Any]:
    """The summary; empty where there is none. Raises Damaged."""
    recorded = (state.done or {}).get("summary")
    return read_summary(store) if recorded is None else dict(recorded)


def read_summary(store: Store) -> dict[str, Any]:
    """summary.json as it is; empty if there is none. Raises Damaged."""
    return parse_json(store.get("summary.json") or b"{}", f"{store.url}/summary.json")
