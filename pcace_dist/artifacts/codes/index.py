"""codes/index.json: which codes files of a run count, and under which plan they were kept."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from pcace_dist.artifacts.attempt import CODES_FILE, attempt_key
from pcace_dist.artifacts.checked import REPAIR, Damaged, Digest
from pcace_dist.artifacts.codes.columns import VERSION
from pcace_dist.errors import OutputError
from pcace_dist.ledger.ledger import Receipt, RunState
from pcace_dist.statistics.plan import Plan
from pcace_dist.storage.store import Sink

INDEX = "codes/index.json"


@dataclass(frozen=True)
class CodesPart:
    """One codes file: its key below the run's output, rows and bytes."""

    file: str
    rows: int
    size: int


@dataclass(frozen=True)
class CodesIndex:
    """What a run has kept: the plan's digest, the files, and the names and types of the kept columns."""

    plan: str
    fingerprint: str
    weights: str
    fold_by: str | None
    parts: tuple[CodesPart, ...]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def nbytes(self) -> int:
        return sum(part.size for part in self.parts)

    def to_bytes(self) -> bytes:
        value = {
            "format_version": VERSION,
            "plan": f"plan/{self.plan}.safetensors",
            "fingerprint": self.fingerprint,
            "weights": self.weights,
            "fold_by": self.fold_by,
            "rows": self.rows,
            "parts": [{"file": part.file, "rows": part.rows, "size": part.size} for part in self.parts],
        }
        return (json.dumps(value, indent=1) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, url: str) -> CodesIndex:
        """Raises OutputError when this is no index of a version that is known here."""
        try:
            value = json.loads(data)
            version = value["format_version"]
            digest = str(value["plan"]).removeprefix("plan/").removesuffix(".safetensors")
            parts = tuple(CodesPart(str(p["file"]), int(p["rows"]), int(p["size"])) for p in value["parts"])
            index = cls(digest, str(value["fingerprint"]), str(value["weights"]), value["fold_by"], parts)
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{url}/{INDEX}: is no index of kept codes") from error
        if version != VERSION:
            raise OutputError(f"{url}/{INDEX}: is of format {version}; use the version that wrote it")
        return index


def index_of(
    plan: Plan, receipts: Iterable[Receipt], *, fingerprint: str, weights: str, fold_by: str | None
) -> CodesIndex:
    """The index of accepted attempts, in the ledger's order."""
    return CodesIndex(plan.digest, fingerprint, weights, fold_by, parts_of(receipts))


def parts_of(receipts: Iterable[Receipt]) -> tuple[CodesPart, ...]:
    """The codes files of accepted attempts, in the ledger's order."""
    parts = []
    for receipt in receipts:
        ref = receipt.files.get(CODES_FILE)
        if ref is not None:
            rows = sum(count.rows for count in receipt.units.values())
            parts.append(CodesPart(attempt_key(receipt.attempt, CODES_FILE), rows, ref.size))
    return tuple(parts)


def publish_index(store: Sink, index: CodesIndex) -> None:
    store.put(INDEX, index.to_bytes())


def check_index(index: CodesIndex, data: bytes, state: RunState, url: str) -> None:
    """Raises Damaged unless the index is what the finished run published and its ledger accounts for."""
    if state.done is None or state.manifest is None:
        return
    digest = state.done.get("files", {}).get(INDEX)
    parts = parts_of(state.accepted_receipts())
    if (digest is not None and not Digest.from_json(digest).fits(data)) or (index.parts, index.plan) != (
        parts,
        state.manifest["plan"],
    ):
        raise Damaged(f"{url}: is not what the run wrote; {REPAIR}")
