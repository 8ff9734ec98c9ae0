"""The job file as typed models: parse, check, fill in defaults, fingerprint.

Knows the job file's keys and nothing else: no storage, no torch, no Ray. Every mistake becomes a one-line `JobError`
that names the key, the value and what would do.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError, field_validator, model_validator

from pcace_dist.config.explain import explain
from pcace_dist.config.sections import Compute, Effect, Layer, Model, Section, Statistics, Stop, Target, Workers, key
from pcace_dist.config.targets import TargetSpec, parse_target, reduction_of
from pcace_dist.config.text import apply_override, load_yaml
from pcace_dist.datasets.sections import Dataset, Limits
from pcace_dist.errors import JobError
from pcace_dist.storage.sections import Endpoint

FORMAT_VERSION = 1
INDEPENDENT: dict[str, Any] = {
    "workers": True,
    "storage": True,
    "max_bad_rows": True,
    "output": True,
    "compute": {"exact"},
    "statistics": {"memory"},
}
"""Keys that the result does not depend on: jobs that differ in no other key are the same job."""


class Job(Section):
    """A resolved job. Only dataset.path, model.factory, model.weights, layers, target and output are required."""

    dataset: Dataset = key("The images and their columns.", {"path": "shards/", "label": "label"})
    model: Model = key("The network.", {"factory": "torchvision:resnet18", "weights": "resnet18.safetensors"})
    layers: list[str | Layer] = key(
        'Modules whose channels are ranked: names, globs, "!glob" to leave out, "all" for every convolution; a layout '
        "where the axes cannot be told.",
        ["layer4.*.conv2"],
        "all",
        [{"name": "stages.*.block", "layout": "BHWC"}],
    )
    target: list[dict[str, str | int]] = key(
        "What channels are ranked against, or a list of such: an output of the model or a column of the data.",
        {"logit": "label"},
        [{"logit": 3}, {"column": "no2"}],
    )
    group_by: str | None = key("Column of which each value gets a ranking of its own.", "label", default=None)
    effect: Effect = key("What the model does with each channel.", {"gradient": "image"}, default=Effect())
    statistics: Statistics = key("How scores are computed.", {"components": 3}, default=Statistics())
    stop: Stop | None = key("End the run once its top is settled; null: read all images.", {"top": 20}, default=None)
    extend: str | None = key("A finished run of which all that still holds is taken over.", "runs/june", default=None)
    workers: Workers = key("Who does the work.", {"max": 8, "gpus": 1}, default=Workers())
    compute: Compute = key("How the model is run.", {"precision": "float32"}, default=Compute())
    limits: Limits = key("The largest image that is decoded.", {"pixels": 500_000_000}, default=Limits())
    max_bad_rows: float = key(
        "Share of rows that may be set aside; with more the run ends with exit code 4.", 0.05, default=0.01, ge=0, le=1
    )
    shown: Literal["images", "none"] = key(
        "What may be shown of the data. none, for faces or streets: no table of the result says which images a channel "
        "responds to, and no page, notebook or contact sheet shows one.",
        "none",
        default="images",
    )
    storage: dict[str, Endpoint] = key(
        "How to reach buckets, by prefix; the longest prefix counts.",
        {"s3://bucket/": {"region": "eu-central-1"}},
        default={},
    )
    output: str = key("Folder for the results, local or s3://.", "runs/resnet18", min_length=1)

    @field_validator("dataset", mode="before")
    @classmethod
    def _paths(cls, value: object) -> object:
        if not isinstance(value, Mapping) or not isinstance(value.get("path"), str):
            return value
        return {**value, "path": [value["path"]]}

    @field_validator("output")
    @classmethod
    def _one_spelling(cls, value: str) -> str:
        """A URL in its one spelling, without `//` and without `/` at its end. A wrong URL is reported when it is
        opened."""
        if "://" not in value:
            return value
        from pcace_dist.storage.files import normalised

        with contextlib.suppress(JobError):
            value = normalised(value)
        return value

    @field_validator("layers", mode="before", json_schema_input_type=str | Layer | list[str | Layer])
    @classmethod
    def _layers(cls, value: object) -> object:
        return [value] if isinstance(value, str | Mapping) else value

    @field_validator("layers")
    @classmethod
    def _some_layer(cls, value: list[str | Layer]) -> list[str | Layer]:
        if not value:
            raise ValueError('names no layer; use "all" for every convolutional layer')
        return value

    @field_validator("target", mode="before", json_schema_input_type=Target | list[Target])
    @classmethod
    def _targets(cls, value: object) -> object:
        return [value] if isinstance(value, Mapping) else value

    @field_validator("target")
    @classmethod
    def _known_targets(cls, value: list[dict[str, str | int]]) -> list[dict[str, str | int]]:
        if not value:
            raise ValueError("names no target; for example {logit: label}")
        try:
            targets = [parse_target(target) for target in value]
            reduction_of(targets)
        except JobError as error:
            raise ValueError(str(error).removeprefix("target ")) from None
        names = [target.name for target in targets]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name} is named twice")
        return value

    @property
    def targets(self) -> tuple[TargetSpec, ...]:
        """What the channels are ranked against."""
        return tuple(map(parse_target, self.target))

    @model_validator(mode="after")
    def _some_path(self) -> Job:
        if not all(self.dataset.path or [""]):
            got = " (got '')" if self.dataset.path == [""] else ""
            raise ValueError(f"dataset.path: names no path{got}")
        return self

    @model_validator(mode="after")
    def _input_within_limits(self) -> Job:
        for name, size in (("resize", self.model.input.resize), ("crop", self.model.input.crop)):
            height, width = (size, size) if isinstance(size, int) else size or (0, 0)
            if height * width > self.limits.pixels:
                raise ValueError(
                    f"model.input.{name}: {height} x {width} pixels are more than limits.pixels {self.limits.pixels}"
                )
        return self

    @property
    def layer_patterns(self) -> list[str]:
        """Names and globs of `layers`, in order."""
        return [layer.name if isinstance(layer, Layer) else layer for layer in self.layers]

    def dependent(self) -> dict[str, Any]:
        """The keys that the result depends on, as plain values.

        Jobs that differ only in other keys (workers, storage, max_bad_rows, output, compute.exact, statistics.memory)
        are the same job, and continue the same run. Left out are decode: auto, orientation: none and crop_offset: round
        of model.input, model.output: null, dataset.label_base: 0, dataset.classes: null, statistics.tails: 0,
        shown: images, and an `effect` that says nothing: jobs written before these keys existed keep their
        fingerprint."""
        keys = self.model_dump(mode="json", exclude=INDEPENDENT)
        if self.model.input.decode == "auto":
            del keys["model"]["input"]["decode"]
        if self.model.input.orientation == "none":
            del keys["model"]["input"]["orientation"]
        if keys["model"]["input"]["crop_offset"] == "round":
            del keys["model"]["input"]["crop_offset"]
        if self.model.output is None:
            del keys["model"]["output"]
        if self.effect == Effect():
            del keys["effect"]
        if self.shown == "images":
            del keys["shown"]
        if not self.statistics.tails:
            del keys["statistics"]["tails"]
        for name in ("label_base", "classes"):
            if not keys["dataset"][name]:
                del keys["dataset"][name]
        for target, spec in zip(keys["target"], self.targets, strict=True):
            if spec.file is not None:  # its digest counts, not its folder
                target["cosine"] = spec.file.rpartition("/")[2]
        return keys

    def fingerprint(
        self,
        *,
        layers: Sequence[str],
        weights_digest: str,
        layouts: Mapping[str, str] | None = None,
        code: str | None = None,
        prototypes: Mapping[str, str] | None = None,
    ) -> str:
        """Digest of everything that the result depends on (`dependent`).

        `layers`: the resolved layer names; `layouts`: those that the job gives, by layer; `weights_digest`: of the
        loaded weights; `code`: digest of the user's own code that defines the model; `prototypes`: digests of the
        files of vectors, by target. What the model says of model.input has been filled in (`with_input`).
        """
        if self.model.auto:
            raise ValueError(f"model.input: {', '.join(sorted(self.model.auto))} are not known yet")
        covered = self.dependent()
        del covered["model"]["weights"]
        covered["dataset"].pop("classes", None)  # what they say is in the manifest (artifacts/reading/data_reading.py)
        covered |= {"layers": list(layers), "weights": weights_digest, "format_version": FORMAT_VERSION}
        covered |= ({"layouts": dict(layouts)} if layouts else {}) | ({"code": code} if code else {})
        covered |= {"prototypes": dict(prototypes)} if prototypes else {}
        text = json.dumps(covered, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def with_input(self, values: Mapping[str, Any]) -> Job:
        """The job in which the keys of model.input that are `auto` have these values. Raises JobError."""
        written = self.model_dump(mode="json", exclude_unset=True)
        written["model"]["input"] |= {key: values[key] for key in self.model.auto}
        return parse_job(written)

    def filled_from(self, other: Job | None) -> Job:
        """The job in which those keys are as in another job."""
        if other is None or not self.model.auto:
            return self
        return self.with_input({key: getattr(other.model.input, key) for key in self.model.auto})

    def to_yaml(self) -> str:
        """The resolved job as YAML, as in job.yaml of the output. Reading it gives the same job."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_job(text: str, *, name: str = "job", overrides: Sequence[str] = ()) -> Job:
    """Parse a job file's text. `overrides` are "key.path=value" strings, the value read as YAML.

    Raises JobError, one line, naming the file, the key and what would do.
    """
    return parse_job(mapping_of(text, name, overrides), name=name)


def mapping_of(text: str, name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A job file's text as plain values, with its overrides, unchecked. Raises JobError where it is no mapping."""
    data = load_yaml(text, name)
    if not isinstance(data, dict):
        raise JobError(f"{name}: a job file is a mapping with the keys dataset, model, layers, target, output")
    for override in overrides:
        apply_override(data, override)
    return data


def parse_job(data: Mapping[str, Any], *, name: str = "job") -> Job:
    """Check a mapping against the job file's keys. Raises JobError with the first mistake, unknown keys first."""
    try:
        return Job.model_validate(dict(data))
    except ValidationError as error:
        raise JobError(f"{name}: {explain(error, Job)}") from None


def load_job_file(path: str, overrides: Sequence[str] = ()) -> Job:
    """Read a job file from a local path. Raises JobError if it cannot be read."""
    return read_job(text_of(path), name=path, overrides=overrides)


def text_of(path: str) -> str:
    """The text of a local job file. Raises JobError if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise JobError(f"{path}: cannot read the job file: {reason}") from None
