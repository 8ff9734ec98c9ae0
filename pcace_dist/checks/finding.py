"""A finding: one thing that is, or may be, wrong with a job."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

Level = Literal["error", "warning", "note"]
ERROR: Final = "error"
WARNING: Final = "warning"
NOTE: Final = "note"
ORDER = {ERROR: 0, WARNING: 1, NOTE: 2}


@dataclass(frozen=True)
class Finding:
    """level: error (`pcace rank` refuses the job), warning (the result is probably not what is wanted) or note. what:
    the key or the subject. evidence: what was seen, with its figures. write: what would do; may be empty. figures: the
    numbers of the evidence by name."""

    level: Level
    what: str
    evidence: str
    write: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.what}: {self.evidence}" + (f"; {self.write}" if self.write else "")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def by_level(findings: list[Finding]) -> list[Finding]:
    """Errors first, then warnings, then notes; otherwise as they are."""
    return sorted(findings, key=lambda finding: ORDER[finding.level])
