"""Targets in the job file: what the channels are ranked against. The only parser of them. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pcace_dist.errors import JobError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

KINDS = ("logit", "output", "margin", "loss", "cosine", "column")
OF_A_CLASS = ("logit", "margin", "loss")  # kinds whose class may be that of the row
LABEL, PREDICTED = "label", "predicted"
MEAN, MAX, AREA = REDUCTIONS = ("mean", "max", "area")
FIRST, LAST = AXES = ("first", "last")
OPTIONS = ("minus", "index", "name", "reduce", "classes")
PROTOTYPES = {".npy": "index", ".npz": "name"}  # files of vectors, and the key that picks one of theirs
EXAMPLES = (
    "{logit: label}, {logit: 3}, {logit: predicted}, {logit: 3, minus: 5}, {margin: label}, {loss: label}, "
    "{output: 0}, {output: 3, reduce: mean}, {cosine: NAME} or {column: NAME}"
)

_INDEX: dict[str, Any] = {"type": "integer", "minimum": 0}
_NAME: dict[str, Any] = {"type": "string", "minLength": 1}
_OF_A_CLASS = {"anyOf": [_INDEX, {"enum": [LABEL, PREDICTED]}]}
TARGET_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {kind: _OF_A_CLASS for kind in OF_A_CLASS}
    | {"output": _INDEX, "column": _NAME, "cosine": _NAME}
    | {"index": {"anyOf": [_INDEX, {"const": LABEL}]}, "name": _NAME}
    | {"minus": _INDEX, "reduce": {"enum": list(REDUCTIONS)}, "classes": {"enum": list(AXES)}},
    "additionalProperties": False,
    "oneOf": [{"required": [kind]} for kind in KINDS],
}
"""A target as JSON schema, for editors. What `parse_target` says beyond it needs more than one key."""


@dataclass(frozen=True)
class Reduction:
    """How outputs with positions (segmentation, detection heads) become one number a class (models/reduction.py).

    how: mean, max or area. axis: where the classes are, first or last behind the images; None: by the number of axes.
    required: whether the outputs must have positions.
    """

    how: str
    axis: str | None = None
    required: bool = True


@dataclass(frozen=True, eq=False)
class Prototypes:
    """Vectors (P, E) of a file, and the file's sha256 (models/prototypes.py)."""

    vectors: npt.NDArray[np.float64]
    digest: str


@dataclass(frozen=True)
class TargetSpec:
    """One target: a function of the model's outputs, or a column of the data.

    kind: logit, output, margin (own logit less the largest other), loss (cross-entropy), cosine (of the outputs, an
    embedding, with a vector) or column. value: `label` or `predicted` (the class is the row's own), the index of an
    output, a column (of vectors for cosine), or a file of vectors. minus: an output that is subtracted. pick: which
    vector of the file, an index, a name, or `label`. reduction: of outputs with positions. prototypes: the file's.
    """

    kind: str
    value: str | int
    minus: int | None = None
    reduction: Reduction | None = None
    pick: str | int | None = None
    prototypes: Prototypes | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The canonical name, as in rankings.parquet: logit:label, logit:3, logit:3-5, margin:label, loss:label,
        output:0, output:3:mean, cosine:text_embedding, cosine:prototypes.npy:3 (without folders), column:no2.
        `parse_name` reads it."""
        value = self.value if self.file is None else f"{self.file.rpartition('/')[2]}:{self.pick}"
        minus = "" if self.minus is None else f"-{self.minus}"
        return f"{self.kind}:{value}{minus}" + ("" if self.reduction is None else f":{self.reduction.how}")

    @property
    def written(self) -> str:
        """As a job file writes it."""
        options: dict[str, object] = {"minus": self.minus}
        if self.file is not None:
            options |= {PROTOTYPES[self.file[-4:]]: self.pick}
        if self.reduction is not None:
            options |= {"reduce": self.reduction.how, "classes": self.reduction.axis}
        entries = {self.kind: self.value} | {key: value for key, value in options.items() if value is not None}
        return f"{{{', '.join(f'{key}: {value}' for key, value in entries.items())}}}"

    @property
    def needs_label(self) -> bool:
        """Whether dataset.label is needed."""
        if self.kind == "cosine":
            return self.pick == LABEL and str(self.file).endswith(".npy")
        return self.of_outputs and self.value == LABEL

    @property
    def column(self) -> str | None:
        """The numeric column of the data that is the target; None where it is a function of the outputs."""
        return None if self.of_outputs else str(self.value)

    @property
    def vectors(self) -> str | None:
        """The column of vectors that the outputs are compared with."""
        return str(self.value) if self.kind == "cosine" and self.pick is None else None

    @property
    def file(self) -> str | None:
        """The file of the vectors that the outputs are compared with."""
        return None if self.pick is None else str(self.value)

    @property
    def largest_index(self) -> int:
        """The largest index of an output that it names; -1 where it names none."""
        return max(index if isinstance(index, int) else -1 for index in (self.value, self.minus))

    @property
    def of_outputs(self) -> bool:
        """Whether it is a function of the model's outputs (`models.targets.target_tensor`)."""
        return self.kind != "column"

    @property
    def differentiable(self) -> bool:
        """Whether it has a gradient with respect to the outputs."""
        return self.of_outputs and (self.reduction is None or self.reduction.how != AREA)


def parse_target(mapping: Mapping[str, Any]) -> TargetSpec:
    """The target that a mapping in the job file means. Raises JobError, one line."""
    if not isinstance(mapping, Mapping) or not mapping:
        raise JobError(f"target {mapping!r}: write one of {EXAMPLES}")
    label = f"target {{{', '.join(f'{key}: {value}' for key, value in mapping.items())}}}"
    kinds = [key for key in mapping if key in KINDS]
    options = {key: value for key, value in mapping.items() if key not in KINDS}
    if len(kinds) > 1:
        raise JobError(f"{label}: write one of {EXAMPLES}")
    if not kinds:
        kind = next(iter(mapping))
        raise JobError(f"{label}: unknown kind {kind!r}{_nearest(kind, KINDS)}; write one of {EXAMPLES}")
    for key in options:
        if key not in OPTIONS:
            raise JobError(f"{label}: unknown key {key!r}{_nearest(key, OPTIONS)}; write one of {EXAMPLES}")
    spec = TargetSpec(kinds[0], _value(kinds[0], mapping[kinds[0]], label))
    if "minus" in options:
        spec = _less(spec, options["minus"], label)
    if spec.kind == "cosine" or options.keys() & {"index", "name"}:
        spec = replace(spec, pick=_pick(spec, options, label))
    if options.keys() & {"reduce", "classes"}:
        spec = replace(spec, reduction=_reduction(spec, options, label))
    return spec


def parse_name(name: str) -> TargetSpec:
    """The target of a canonical name (`TargetSpec.name`). Raises JobError, one line."""
    kind, _, value = name.partition(":")
    if kind == "column":
        return parse_target({kind: value})
    if kind == "cosine":
        return _parse_cosine(value)
    value, reduced, how = value.partition(":")
    first, less, second = value.partition("-")
    options = ({"minus": _number(second)} if less else {}) | ({"reduce": how} if reduced else {})
    return parse_target({kind: _number(first)} | options)


def have_classes(targets: Sequence[TargetSpec]) -> bool:
    """Whether the model's outputs can be classes of whole images: not where a target takes them for an embedding, or
    reduces what they say at every position."""
    return not any(target.kind == "cosine" or target.reduction is not None for target in targets)


def reduction_of(targets: Sequence[TargetSpec]) -> Reduction | None:
    """How the model's outputs are reduced for these targets, which share one pass. Where none is a function of the
    outputs, maps among them are averaged: they only serve to check that every machine computes the same.

    Raises JobError, one line, for targets that need different reductions.
    """
    specs = [target for target in targets if target.of_outputs]
    for spec in specs:
        if spec.reduction != specs[0].reduction:
            raise JobError(
                f"target {specs[0].written} and {spec.written}: the targets of one job must have the same reduce; make "
                "two jobs"
            )
    return specs[0].reduction if specs else Reduction(MEAN, required=False)


def _parse_cosine(text: str) -> TargetSpec:
    reduced = next((how for how in REDUCTIONS if text.endswith(f":{how}")), None)
    text = text if reduced is None else text.removesuffix(f":{reduced}")
    options = {} if reduced is None else {"reduce": reduced}
    of_file = re.fullmatch(r"(.*\.np[yz]):(.*)", text)
    if of_file is None:
        return parse_target({"cosine": text} | options)
    path, pick = of_file.groups()
    return parse_target(
        {"cosine": path, PROTOTYPES[path[-4:]]: _number(pick) if path.endswith("y") else pick} | options
    )


def _number(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def _value(kind: str, value: Any, label: str) -> str | int:
    if kind in ("column", "cosine"):
        if not isinstance(value, str) or not value:
            needed = "a numeric column" if kind == "column" else "a column of vectors"
            raise JobError(f"{label}: needs the name of {needed} of the data set")
        return value
    if kind in OF_A_CLASS and isinstance(value, str):
        if value not in (LABEL, PREDICTED):
            near = _nearest(value, (LABEL, PREDICTED))
            raise JobError(f"{label}: needs label, predicted or the index of an output{near}")
        return value
    return _index(value, f"{label}: needs")


def _less(spec: TargetSpec, minus: Any, label: str) -> TargetSpec:
    """The target with another output subtracted."""
    if spec.kind not in ("logit", "output") or isinstance(spec.value, str):
        raise JobError(f"{label}: minus goes with the index of an output, for example {{logit: 3, minus: 5}}")
    if _index(minus, f"{label}: minus needs") == spec.value:
        raise JobError(f"{label}: is 0 for every image; minus needs the index of another output")
    return replace(spec, minus=minus)


def _pick(spec: TargetSpec, options: Mapping[str, Any], label: str) -> str | int | None:
    """Which vector of a file; None for a column of vectors."""
    key = PROTOTYPES.get(str(spec.value)[-4:])
    given = options.keys() & {"index", "name"}
    if spec.kind != "cosine" or (key is None and given):
        raise JobError(
            f"{label}: index and name pick a vector of a file that numpy wrote, for example "
            "{cosine: prototypes.npy, index: 3} or {cosine: prototypes.npz, name: cat}"
        )
    if given != ({key} if key else set()):
        raise JobError(f"{label}: a file of vectors needs {key}, and nothing else that picks one")
    pick = None if key is None else options[key]
    if key == "name" and (not isinstance(pick, str) or not pick):
        raise JobError(f"{label}: name needs the name of a vector")
    if key == "index" and pick != LABEL and (not isinstance(pick, int) or isinstance(pick, bool) or pick < 0):
        raise JobError(f"{label}: index needs a whole number from 0, or label")
    return pick


def _reduction(spec: TargetSpec, options: Mapping[str, Any], label: str) -> Reduction:
    """What the keys `reduce` and `classes` say."""
    how, axis = options.get("reduce"), options.get("classes")
    if not spec.of_outputs:
        raise JobError(f"{label}: reduce and classes go with outputs of the model, not with a column")
    if how not in REDUCTIONS:
        raise JobError(f"{label}: reduce needs {', '.join(REDUCTIONS)}{_nearest(how, REDUCTIONS)}")
    if axis not in (None, *AXES):
        raise JobError(f"{label}: classes needs first or last{_nearest(axis, AXES)}: the axis that holds them")
    if how == AREA and spec.kind in ("loss", "cosine"):
        raise JobError(f"{label}: areas are {'no logits' if spec.kind == 'loss' else 'no embedding'}; use reduce: mean")
    return Reduction(how, axis)


def _index(value: Any, needs: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise JobError(f"{needs} the index of an output, a whole number from 0")
    return value


def _nearest(name: object, choices: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(str(name).lower(), choices, n=1, cutoff=0.5)
    return f" (did you mean {nearest[0]}?)" if nearest else ""
