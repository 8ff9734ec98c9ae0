"""The body of a ledger's last record, `done`: the outcome, what small files hold, the digests of published files."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pcace_dist.artifacts.checked import Digest, parsing
from pcace_dist.artifacts.summary import summary_bytes
from pcace_dist.config.job import Job
from pcace_dist.ledger.ledger import RunState
from pcace_dist.storage.store import Store


@dataclass
class Publication:
    """Passes published files on to the store and keeps their digests for `done`."""

    put_on: Callable[[str, bytes], None]
    files: dict[str, Digest] = field(default_factory=dict)

    def put(self, key: str, data: bytes) -> None:
        self.put_on(key, data)
        self.files[key] = Digest.of(data)

    def to_json(self) -> dict[str, Any]:
        return {name: digest.to_json() for name, digest in self.files.items()}


def done_body(summary: Mapping[str, Any], job: Job, group_type: pa.DataType, published: Publication) -> dict[str, Any]:
    """The body of `done`: the outcome, the content of small files, and the digests of all files.

    With these, files that are damaged later can be recognised and written again.
    """
    last = Publication(lambda key, data: None, dict(published.files))
    last.put("job.yaml", job.to_yaml().encode())
    last.put("summary.json", summary_bytes(summary))
    kind = pa.schema([("group", group_type)]).serialize().to_pybytes()
    return {
        "exit_code": summary["exit_code"],
        "outcome": summary["outcome"],
        "summary": summary,
        "job": job.to_yaml(),
        "group_type": base64.b64encode(kind).decode(),
        "files": last.to_json(),
    }


def recorded_group_type(done: Mapping[str, Any]) -> pa.DataType:
    """The type of the column `group`, as `done_body` wrote it."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(done["group_type"]))).field("group").type


def recorded_job(store: Store, state: RunState) -> str | None:
    """The resolved job as YAML; None where there is none. Raises Damaged."""
    text = (state.done or {}).get("job")
    if text is not None:
        return str(text)
    data = store.get("job.yaml")
    with parsing(f"{store.url}/job.yaml"):
        return None if data is None else data.decode()
