"""`pcace check`: what can be wrong with a job, and what some hundred of its images say about it."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from pcace_dist.checks import accuracy, alike, groups, near_duplicates, values
from pcace_dist.checks.finding import ERROR, NOTE, WARNING, Finding, Level, by_level
from pcace_dist.commands.check.inputs import other_inputs
from pcace_dist.commands.check.refusals import judge
from pcace_dist.commands.check.sample import Sample, take_sample
from pcace_dist.commands.check.sheet import contact_sheet
from pcace_dist.config.job import Job
from pcace_dist.config.targets import have_classes
from pcace_dist.datasets.groups import name_of
from pcace_dist.datasets.loader import spread
from pcace_dist.datasets.row_groups import count_kept, kept_counts
from pcace_dist.datasets.units import listed_row_groups
from pcace_dist.errors import OutputError, UserError
from pcace_dist.models.library.origin import RANDOM
from pcace_dist.progress.display import duration
from pcace_dist.run.prepare import Preparation
from pcace_dist.worker.shared_model import cores, most_threads

IMAGES = 200
COUNTED_ROW_GROUPS = 64
SHEET = "contact-sheet.png"


@dataclass(frozen=True)
class Checked:
    """findings: errors first. sheet: where the contact sheet lies. figures: of the sample, by name."""

    findings: list[Finding]
    sheet: str | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """2 where `pcace rank` would refuse the job, else 0."""
        return 2 if any(finding.level == ERROR for finding in self.findings) else 0

    def to_json(self) -> dict[str, Any]:
        findings = [finding.to_json() for finding in self.findings]
        return {"exit_code": self.exit_code, "findings": findings, "sheet": self.sheet, "figures": dict(self.figures)}


def check(
    job: str | Mapping[str, Any], overrides: Sequence[str] = (), *, images: int = IMAGES, out: str | None = None
) -> Checked:
    """Check a job: the path of its file, or its keys. Nothing is written but the contact sheet, below `out`
    (with `shown: none` not even that).

    Raises JobError where the file cannot be read, OutputError where `out` cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="pcace-check-") as scratch:
        judged = judge(job, overrides, Path(scratch))
        if judged.preparation is None:
            return Checked(by_level(judged.findings))
        preparation, findings = judged.preparation, judged.findings
        try:
            sample = take_sample(preparation, images)
        except UserError as error:
            key, _, rest = str(error).partition(": ")
            return Checked(by_level([*findings, Finding(ERROR, key, rest)]))
        names = preparation.reading.names
        findings += [*_of_sample(preparation, sample, names)]
        hidden = preparation.job.shown == "none"
        sheet = None if out is None or hidden else _write_sheet(out, sample, names, preparation.job)
    return Checked(by_level(findings), sheet, _figures(preparation, sample))


def _of_sample(preparation: Preparation, sample: Sample, names: Mapping[int, str]) -> Iterator[Finding]:
    job, settings = preparation.job, preparation.job.statistics
    sizes, exact = _group_sizes(preparation)
    yield groups.finding_of(
        sizes, grouped=job.group_by, components=settings.components, knots=settings.knots, exact=exact
    )
    section = preparation.spec.model.input
    yield values.finding_of(sample.images, section.mean, section.std)
    yield from _of_labels(preparation, sample, names)
    yield from _of_targets(job, sample)
    yield from _of_folds(job, sample)
    yield _memory(preparation, sample)
    yield _time(preparation, sample)


def _of_labels(preparation: Preparation, sample: Sample, names: Mapping[int, str]) -> Iterator[Finding]:
    """Accuracy, and whether another input or another order of the classes would raise it."""
    if sample.labels is None or not have_classes(preparation.job.targets):
        return
    predicted = sample.outputs.argmax(1).numpy()
    finding = accuracy.finding_of(predicted, sample.labels, sample.outputs.shape[1], names)
    if finding is None:
        return
    if preparation.spec.model.weights == RANDOM:
        yield replace(finding, level=NOTE, write="model.weights: random is no trained model")
        return
    yield finding
    yield from other_inputs(preparation, sample, finding)


def _of_targets(job: Job, sample: Sample) -> Iterator[Finding]:
    """Rows without a target, and targets that do not vary."""
    missing = len(sample.reasons)
    if missing:
        reason = Counter(sample.reasons.values()).most_common(1)[0][0]
        level: Level = (
            ERROR if missing == len(sample) else WARNING if missing > job.max_bad_rows * len(sample) else NOTE
        )
        yield Finding(
            level,
            "target",
            f"{missing} of {len(sample)} images have none: {reason}",
            "see target and dataset.label" if level != NOTE else "",
            {"without": missing, "images": len(sample)},
        )
    for spec, column in zip(job.targets, sample.targets.T, strict=True):
        if np.nanstd(column) == 0 and missing < len(sample):
            yield Finding(WARNING, f"target {spec.written}", f"is {column[0]:g} for every image", "take another target")


def _of_folds(job: Job, sample: Sample) -> Iterator[Finding]:
    """Images that belong together and would be held out from one another."""
    dataset = job.dataset
    found = near_duplicates.near_duplicates(near_duplicates.thumbnails(sample.images), sample.fold_keys)
    finding = near_duplicates.finding_of(found, fold_by=dataset.fold_by, names=sample.ids)
    if finding is not None:
        yield finding
    if dataset.fold_by is not None:
        return
    roles = {dataset.label, dataset.id, dataset.image, job.group_by}
    columns = {
        name: column
        for name, column in sample.columns.items()
        if name not in roles and isinstance(next((v for v in column if v is not None), None), str | int)
    }
    labels = None if sample.labels is None else sample.labels.tolist()
    ids = sample.ids if dataset.id is not None else None
    yield from alike.findings_of(columns, labels, sample.images, ids)


def _group_sizes(preparation: Preparation) -> tuple[Mapping[str, int], bool]:
    """Images by group, and whether all were counted; else estimated from evenly chosen row groups."""
    spec, listing = preparation.spec, preparation.listing
    row_groups = listed_row_groups(listing)
    chosen = [row_groups[at] for at in spread([r.rows for r in row_groups], COUNTED_ROW_GROUPS, COUNTED_ROW_GROUPS)]
    chosen = row_groups if len(row_groups) <= COUNTED_ROW_GROUPS else chosen
    scale = sum(ref.rows for ref in row_groups) / sum(ref.rows for ref in chosen)
    exact = len(chosen) == len(row_groups)
    if preparation.job.group_by is None:
        kept = sum(count_kept(chosen, spec.dataset, spec.storage))
        return {"": round(scale * kept)}, exact
    counts = kept_counts(preparation.job.group_by, chosen, spec.dataset, spec.storage)
    return {name_of(value): round(scale * count) for value, count in counts.items()} or {"": 0}, exact


def _memory(preparation: Preparation, sample: Sample) -> Finding:
    """What the workers of this machine would take, by this process as it is with the model and a batch."""
    workers = preparation.job.workers
    here = max(1, min(workers.max, most_threads(workers.cpus)))
    own, free = psutil.Process().memory_info().rss, psutil.virtual_memory().available
    figures = {"process_bytes": own, "map_bytes": sample.map_bytes, "available_bytes": free, "workers": here}
    evidence = (
        f"about {own / 1e9:.1f} GB for each worker, {here} of them here ({free / 1e9:.1f} GB are free); the layers' "
        f"maps of one image are {sample.map_bytes / 1e3:,.0f} kB"
    )
    if own * here > free:
        return Finding(WARNING, "memory", evidence, "write workers: {max: 1}, fewer layers or a smaller crop", figures)
    return Finding(NOTE, "memory", evidence, "", figures)


def _time(preparation: Preparation, sample: Sample) -> Finding:
    rows, listing = preparation.listing.rows, preparation.listing
    size = sum(file.size for file in listing.files) if preparation.reading.images is None else None
    stored = "" if size is None else f", {size / 1e6:,.1f} MB in {len(listing.files):,} files"
    workers = max(1, min(preparation.job.workers.max, cores()))
    seconds = rows * (sample.read_seconds + sample.model_seconds) / workers
    evidence = (
        f"{rows:,} images{stored}; an image took "
        f"{1e3 * sample.read_seconds:.1f} ms to read and decode and {1e3 * sample.model_seconds:.1f} ms in the model: "
        f"about {duration(max(1, seconds))} with workers.max {workers} on cores like this machine's"
    )
    figures = {"images": rows, "bytes": size, "seconds": round(seconds, 1), "workers": workers}
    return Finding(NOTE, "time", evidence, "`pcace estimate` measures all stages", figures)


def _figures(preparation: Preparation, sample: Sample) -> dict[str, Any]:
    height, width = sample.images.shape[-2:]
    return {
        "images": len(sample),
        "height": height,
        "width": width,
        "outputs": sample.outputs.shape[1],
        "layers": list(preparation.spec.layers),
    }


# -- the contact sheet


def _write_sheet(out: str, sample: Sample, names: Mapping[int, str], job: Job) -> str:
    captions, right = _captions(sample, names, job)
    path = os.path.join(out, SHEET)
    try:
        os.makedirs(out, exist_ok=True)
        Path(path).write_bytes(contact_sheet(sample.images, captions, right))
    except OSError as error:
        raise OutputError(f"--out {out}: cannot be written: {error.strerror}") from None
    return path


def _captions(sample: Sample, names: Mapping[int, str], job: Job) -> tuple[list[tuple[str, ...]], list[bool | None]]:
    """What the model says and, below it, what the label is; without labels the first target's value."""
    labels, several = sample.labels, sample.outputs.shape[1] > 1 and have_classes(job.targets)
    predicted = sample.outputs.argmax(1).tolist()
    if not several or labels is None:
        said = [_named(int(top), names) if several else "" for top in predicted]
        numbers = [f"{job.targets[0].name} {value:.3g}" for value in sample.targets[:, 0].tolist()]
        return [tuple(filter(None, pair)) for pair in zip(said, numbers, strict=True)], [None] * len(sample)
    pairs = list(zip(predicted, labels.tolist(), strict=True))
    lines: list[tuple[str, ...]] = [
        (_named(int(top), names), f"is {_named(label, names)}" if label >= 0 else "no label") for top, label in pairs
    ]
    return lines, [None if label < 0 else bool(top == label) for top, label in pairs]


def _named(index: int, names: Mapping[int, str]) -> str:
    return names.get(index, str(index))
