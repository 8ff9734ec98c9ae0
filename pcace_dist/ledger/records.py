"""One record of a run's ledger as it is stored: JSON with a digest of itself. What records mean together is in
ledger.py. A leaf: every room that reads a run may import it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pcace_dist.errors import OutputError

Json = dict[str, Any]

PREFIX = "ledger/"
RESTORE = "restore it from a copy, or use another output"
LAST_TIME = 1e11  # seconds since 1970: later than any machine's clock says

_FIELDS = ("n", "kind", "epoch", "nonce", "time", "body")
_DIGEST = b',"digest":'


class IllegalHistory(OutputError):
    """A ledger that this protocol cannot have written, or an append that would make it one."""


@dataclass(frozen=True)
class Record:
    """One line of the history. `nonce` tells whose put created it; `time` is for people only."""

    n: int
    kind: str
    epoch: int
    nonce: str
    time: float
    body: Json

    @property
    def key(self) -> str:
        return f"{PREFIX}{self.n:08d}.json"

    def to_bytes(self) -> bytes:
        value = {name: getattr(self, name) for name in _FIELDS}
        text = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()[:-1]
        return text + _DIGEST + f'"{hashlib.sha256(text).hexdigest()}"}}\n'.encode()

    @staticmethod
    def from_bytes(data: bytes, n: int) -> Record:
        """Raises IllegalHistory unless this is record n, as it was written. Version 0.1.0 wrote no digest."""
        name = f"{PREFIX}{n:08d}.json"
        try:
            value = json.loads(data, parse_constant=_refuse_constant)
            digest = value.pop("digest", None)
            if value.keys() != set(_FIELDS):
                raise ValueError(f"its keys are {', '.join(value)}")
            if not abs(value["time"]) < LAST_TIME:
                raise ValueError("its time is no time")
            record = Record(
                int(value["n"]),
                str(value["kind"]),
                int(value["epoch"]),
                str(value["nonce"]),
                float(value["time"]),
                dict(value["body"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise IllegalHistory(f"{name}: is no record of a ledger; {RESTORE}") from error
        if digest is not None and hashlib.sha256(data.rpartition(_DIGEST)[0]).hexdigest() != digest:
            raise IllegalHistory(f"{name}: was changed since it was written (its digest is another); {RESTORE}")
        if record.n != n:
            raise IllegalHistory(f"{name}: says that it is record {record.n}; {RESTORE}")
        return record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
