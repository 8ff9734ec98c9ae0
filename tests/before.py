"""A finished run as version 0.1.0 left it: no digests, neither of records nor of published files."""

from __future__ import annotations

import json
from pathlib import Path


def record_before(data: bytes) -> bytes:
    """A record of a ledger without what came later."""
    value = json.loads(data)
    del value["digest"]
    for name in ("files", "job", "group_type"):
        value["body"].pop(name, None)
    return json.dumps(value).encode()


def make_before(run: Path) -> None:
    for path in (run / "ledger").iterdir():
        path.write_bytes(record_before(path.read_bytes()))
