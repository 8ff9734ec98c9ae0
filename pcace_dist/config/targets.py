"""Targets in the job file: what the channels are ranked against. The only parser of them. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pcace_dist.errors import JobError

KINDS = ("logit", "output", "column")
LOGITS = ("label", "predicted")
EXAMPLES = "{logit: label}, {logit: 3}, {logit: predicted}, {output: 0} or {column: NAME}"


@dataclass(frozen=True)
class TargetSpec:
    """One target. kind: logit, output or column. value: `label`, `predicted`, the index of an output, or the name of a
    column."""

    kind: str
    value: str | int

    @property
    def name(self) -> str:
        """The canonical name, as in rankings.parquet: logit:label, logit:3, logit:predicted, output:0, column:no2."""
        return f"{self.kind}:{self.value}"

    @property
    def needs_label(self) -> bool:
        """Whether dataset.label is needed."""
        return self.kind == "logit" and self.value == "label"


def parse_target(mapping: Mapping[str, Any]) -> TargetSpec:
    """The target that a mapping in the job file means. Raises JobError, one line."""
    if not isinstance(mapping, Mapping) or len(mapping) != 1:
        raise JobError(f"target {mapping!r}: write one of {EXAMPLES}")
    kind, value = next(iter(mapping.items()))
    if kind not in KINDS:
        raise JobError(
            f"target {{{kind}: {value}}}: unknown kind {kind!r}{_nearest(kind, KINDS)}; write one of {EXAMPLES}"
        )
    label = f"target {{{kind}: {value}}}"
    if kind == "column":
        if not isinstance(value, str) or not value:
            raise JobError(f"{label}: needs the name of a numeric column of the data set")
        return TargetSpec(kind, value)
    if kind == "logit" and isinstance(value, str):
        if value not in LOGITS:
            raise JobError(f"{label}: needs label, predicted or the index of an output{_nearest(value, LOGITS)}")
        return TargetSpec(kind, value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise JobError(f"{label}: needs the index of an output, a whole number from 0")
    return TargetSpec(kind, value)


def _nearest(name: object, choices: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(str(name).lower(), choices, n=1, cutoff=0.5)
    return f" (did you mean {nearest[0]}?)" if nearest else ""
