"""All reasons for which a job would be refused, not only the first: what is wrong is left out, and the rest is tried.

`pcace rank` ends at the first mistake. Here a mistake is noted, the key is taken out of the job, and the same functions
judge what is left, until nothing is wrong or nothing can be judged.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pcace_dist.checks.finding import ERROR, Finding
from pcace_dist.config.explain import explain_all
from pcace_dist.config.job import Job, mapping_of, parse_job, text_of
from pcace_dist.config.targets import parse_target
from pcace_dist.errors import UserError
from pcace_dist.run.prepare import Preparation, identify, prepare
from pcace_dist.run.rank import look_at_output

LONGEST_KEY = 60  # characters before a line's first colon
MOST = 40  # mistakes, of any kind
INSTEAD: dict[str, Any] = {  # of required keys that are missing or wrong, so that the rest can be judged
    "model.weights": "random",
    "layers": "all",
    "target": {"output": 0},
    "output": "runs/unnamed",
}
NEEDED = ("dataset", "dataset.path", "model", "model.factory")
OPTIONAL = ("dataset.label", "dataset.id", "dataset.fold_by", "dataset.filter", "group_by", "statistics.plan", "extend")


@dataclass(frozen=True)
class Judged:
    """job: what is left of it; None where nothing can be judged. findings: all errors. preparation: of a job without
    errors, but for its output."""

    job: Job | None
    findings: list[Finding]
    preparation: Preparation | None = None


def judge(given: str | Mapping[str, Any], overrides: Sequence[str], scratch: Path) -> Judged:
    """Try a job, the path of its file or its keys, without writing anything but below `scratch`. Raises JobError where
    there is no such file, or it is no mapping."""
    keys = mapping_of(text_of(given), given, overrides) if isinstance(given, str) else dict(given)
    job, findings = _parsed(keys)
    if job is None:
        return Judged(None, findings)
    findings += _tried("output", lambda: look_at_output(job))
    in_keys = len(findings)
    preparation = None
    tried: Job | None = job.model_copy(update={"output": str(scratch / "run")})
    while tried is not None and len(findings) < MOST:
        try:
            preparation = prepare(tried)
            break
        except UserError as error:
            findings.append(_finding(str(error)))
            left = _without(tried, str(error))
            if left is None and str(error).startswith("dataset"):  # the model can be judged without the data
                findings += _tried("model", partial(identify, tried))
            tried = left
    is_whole = len(findings) == in_keys and all(finding.what.startswith("output") for finding in findings)
    return Judged(job, findings, preparation if is_whole else None)


def _tried(what: str, attempt: Callable[[], object]) -> list[Finding]:
    try:
        attempt()
    except UserError as error:
        return [_finding(str(error), what)]
    return []


def _finding(line: str, what: str = "") -> Finding:
    """An error's line, split where it names the key."""
    key, *rest = re.split(r": (?![^{]*\})", line, maxsplit=1)  # not within {logit: label}
    if rest and len(key) < LONGEST_KEY:
        return Finding(ERROR, key, rest[0])
    return Finding(ERROR, what or "job", line)


def _parsed(data: dict[str, Any]) -> tuple[Job | None, list[Finding]]:
    """The job, where what is wrong is left out or replaced, and all mistakes in its keys."""
    findings: list[Finding] = []
    data = copy.deepcopy(data)
    while len(findings) < MOST:
        try:
            return Job.model_validate(data), findings
        except ValidationError as error:
            lines = explain_all(error, Job)
            findings += [_finding(line) for _, line in lines if line not in {str(f) for f in findings}]
            if not all([_mend(data, key) for key, _ in lines]):
                break
    return None, findings


def _mend(data: dict[str, Any], key: tuple[str, ...]) -> bool:
    """Replace a key's value, or take the key out of the job. Whether that was possible."""
    names = [".".join(key[:length]) for length in range(1, len(key) + 1)]
    for length, name in enumerate(names, start=1):
        if name in INSTEAD:
            _section(data, key[: length - 1])[key[length - 1]] = copy.deepcopy(INSTEAD[name])
            return True
    section = _section(data, key[:-1])
    if not key or key[-1] not in section or names[-1] in NEEDED:
        return False
    del section[key[-1]]
    return True


def _section(data: dict[str, Any], key: tuple[str, ...]) -> dict[str, Any]:
    """The mapping at a key; an empty one where there is none."""
    section: Any = data
    for part in key:
        section = section.get(part) if isinstance(section, dict) else None
    return section if isinstance(section, dict) else {}


def _without(job: Job, line: str) -> Job | None:
    """The job without what the line names; None where nothing is left to judge."""
    data = job.model_dump(mode="json", exclude_unset=True)
    for key in OPTIONAL:
        if line.startswith((f"{key}:", f"{key} ", f"{key}.")):
            return _shortened(data, key)
    if line.startswith("layers ") and len(job.layers) > 1:
        kept = [layer for layer, pattern in zip(data["layers"], job.layer_patterns, strict=True) if pattern not in line]
        return _reparsed({**data, "layers": kept or "all"}) if len(kept) < len(job.layers) else None
    if line.startswith("target") and len(job.target) > 1:
        kept = [target for target in data["target"] if not all(str(value) in line for value in target.values())]
        return _reparsed({**data, "target": kept}) if kept and len(kept) < len(job.target) else None
    return None


def _shortened(data: dict[str, Any], key: str) -> Job | None:
    section, _, name = key.rpartition(".")
    holder = data.get(section) if section else data
    if not isinstance(holder, dict) or holder.get(name) is None:
        return None
    del holder[name]
    if key == "dataset.label":  # what needs it is no mistake of its own
        kept = [target for target in data["target"] if not parse_target(target).needs_label]
        data["target"] = kept or INSTEAD["target"]
    return _reparsed(data)


def _reparsed(data: Mapping[str, Any]) -> Job | None:
    try:
        return parse_job(data)
    except UserError:
        return None
