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
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, field_validator, model_validator

from pcace_dist.config.explain import explain
from pcace_dist.config.targets import TARGET_SCHEMA, TargetSpec, parse_target, reduction_of
from pcace_dist.config.text import SIZE, apply_override, load_yaml, parse_bytes
from pcace_dist.datasets.sections import Dataset, Input, Limits
from pcace_dist.errors import JobError
from pcace_dist.storage.sections import Endpoint, said

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

Size = int | Annotated[str, Field(pattern=SIZE)] | None  # as a job file writes it
Target = Annotated[dict[str, str | int], WithJsonSchema(TARGET_SCHEMA)]


class Section(BaseModel):
    """A mapping of the job file: unknown keys are errors, values are not coerced silently, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, validate_default=False, allow_inf_nan=False)


def key(meaning: str, *examples: Any, default: Any = ..., **more: Any) -> Any:
    """A key with its default (none: it is required) and with what it says of itself (`said`)."""
    return Field(default, **said(meaning, *examples, **more))


class Model(Section):
    """`model`: the network, its weights and what it takes in."""

    factory: str = key(
        "What makes the network: torchvision:NAME, or module:function for any function that returns a torch.nn.Module.",
        "torchvision:resnet18",
        "timm:create_model",
    )
    kwargs: dict[str, Any] = key("Arguments of the factory.", {"num_classes": 10}, default={})
    weights: str = key(
        "State dict (.safetensors, or .pt read with weights only), local or s3://; `factory` where the factory brings "
        "its own, `random` for untrained ones.",
        "s3://bucket/resnet18.pt",
        "factory",
    )
    output: Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1)] | None = key(
        "Which of several outputs is meant: a name or an index; null: `logits`, `out`, or the only one.",
        "logits",
        0,
        default=None,
    )
    input: Input = key(
        "How images become the model's input.", {"resize": 256, "crop": 224, "mean": [0.5, 0.5, 0.5]}, default=Input()
    )

    @field_validator("input", mode="before")
    @classmethod
    def _unsaid(cls, value: object) -> object:
        """An empty mean or std is none."""
        if not isinstance(value, Mapping):
            return value
        return {key: each for key, each in value.items() if each or key not in ("mean", "std")}


class Statistics(Section):
    """`statistics`: how scores are computed (docs/method.md)."""

    estimator: Literal["gram", "ace"] = key(
        "gram: exact sums over all images; ace: the paper's ACE on a sample, for up to 10,000 images.",
        "ace",
        default="gram",
    )
    components: int = key(
        "Principal components of the maps that a score uses; fewer need fewer images.",
        3,
        default=5,
        ge=1,
        le=20,
    )
    knots: int = key("Knots of every transform, which is straight between them.", 17, default=9, ge=3, le=32)
    folds: int = key("Folds of the jackknife that gives the intervals.", 32, default=16, ge=4, le=64)
    pilot: int = key(
        "Images from which axes and knots come, before the main pass.", 4096, default=2048, unit="images", ge=32
    )
    scale: Literal["pixel", "standard", "none"] = key(
        "What divides a pixel of a map: its spread with a floor for pixels that hardly vary (pixel), its standard "
        "deviation (standard), nothing (none).",
        "standard",
        default="pixel",
    )
    penalty: float = key("Smoothness of the transforms: larger is smoother.", 1.0, default=0.3, ge=0, le=1e6)
    knots_from: Literal["plan", "rows", "group"] = key(
        "With kept codes: knots of their plan, or at quantiles of the selected rows or of each group's.",
        "group",
        default="plan",
    )
    plan: str | None = key("A run whose axes and knots are taken instead of a pilot's.", "runs/monday", default=None)
    keep_codes: bool = key(
        "Whether a byte per image, channel and component is kept, for later questions without the model.",
        True,
        default=False,
    )
    memory: int | None = key(
        "Memory for a worker's sums; null: half of its share of what is free.", "4GiB", default=None, unit="bytes"
    )

    @field_validator("memory", mode="before", json_schema_input_type=Size)
    @classmethod
    def _bytes(cls, value: object) -> object:
        return parse_bytes(value)


class Stop(Section):
    """`stop`: end the run once the best channels are settled (docs/codes.md)."""

    top: int = key("Best channels that must be settled.", 10, default=20, ge=1)
    confidence: float = key("Probability that no check errs.", 0.99, default=0.95, gt=0.5, lt=1)
    tolerance: float = key("Difference of scores that makes no difference.", 0.02, default=0.01, ge=0)


class Workers(Section):
    """`workers`: how many, and what each of them gets. No result depends on it."""

    min: int = key("Workers that the run waits for before it starts.", 2, default=1, ge=1, le=100_000)
    max: int = key("Workers at the same time, at most.", 16, default=2, ge=1, le=100_000)
    gpus: float = key("GPUs of each worker.", 1, default=0, unit="GPUs", ge=0, le=1000)
    cpus: float = key("Cores of each worker.", 4, default=1, unit="cores", gt=0, le=100_000)
    memory: int | None = key(
        "Memory that Ray reserves for each worker; null: none.", "16GiB", default=None, unit="bytes"
    )
    resources: dict[str, float] = key("Further resources of Ray for each worker.", {"spot": 1}, default={})
    start_timeout: float = key(
        "How long the run waits for workers before it starts with fewer, or gives up without any.",
        1800,
        default=600,
        unit="seconds",
        gt=0,
    )

    @field_validator("memory", mode="before", json_schema_input_type=Size)
    @classmethod
    def _bytes(cls, value: object) -> object:
        return parse_bytes(value)

    @model_validator(mode="after")
    def _check(self) -> Workers:
        if self.min > self.max:
            raise ValueError(f"min: {self.min} is above workers.max {self.max}")
        return self


class Compute(Section):
    """`compute`: how the model is run (docs/precision.md)."""

    precision: Literal["auto", "float32", "bfloat16"] = key(
        "Precision of the forward pass; auto: what the pilot finds safe on this machine.", "float32", default="auto"
    )
    batch: Literal["auto"] | Annotated[int, Field(ge=1, le=1_000_000)] = key(
        "Images per forward pass; auto: measured in the pilot.", 64, default="auto", unit="images"
    )
    exact: Literal["strict", "off"] = key(
        "strict: only machines that compute the same bits as the pilot's; off: any, and the summary says how much they "
        "differ.",
        "off",
        default="strict",
    )
    seed: int = key("Seed of random weights and of the order in which `stop` reads.", 1, default=0, ge=0, lt=2**63)

    @field_validator("exact", mode="before", json_schema_input_type=Literal["strict", "off", False])
    @classmethod
    def _yaml_off(cls, value: object) -> object:
        return "off" if value is False else value  # YAML 1.1 reads a bare `off` as false

    @property
    def fixed_batch(self) -> int | None:
        """None where the pilot is to choose it."""
        return None if self.batch == "auto" else self.batch


class Layer(Section):
    """A layer, or a glob of layers, whose channels lie on the axis that `layout` says."""

    name: str = key("Name or glob of modules.", "stages.*.block", min_length=1)
    layout: Literal["BCL", "BNC", "BCHW", "BHWC", "BCDHW", "BDHWC"] = key(
        "Axes of the output: batch, channels, length or tokens (L, N), depth, height, width.", "BHWC"
    )


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
    statistics: Statistics = key("How scores are computed.", {"components": 3}, default=Statistics())
    stop: Stop | None = key("End the run once its top is settled; null: read all images.", {"top": 20}, default=None)
    extend: str | None = key("A finished run of which all that still holds is taken over.", "runs/june", default=None)
    workers: Workers = key("Who does the work.", {"max": 8, "gpus": 1}, default=Workers())
    compute: Compute = key("How the model is run.", {"precision": "float32"}, default=Compute())
    limits: Limits = key("The largest image that is decoded.", {"pixels": 500_000_000}, default=Limits())
    max_bad_rows: float = key(
        "Share of rows that may be set aside; with more the run ends with exit code 4.", 0.05, default=0.01, ge=0, le=1
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
        are the same job, and continue the same run. Left out are model.input.decode: auto, model.input.orientation:
        none and model.output: null, so that jobs written before these keys existed keep their fingerprint."""
        keys = self.model_dump(mode="json", exclude=INDEPENDENT)
        if self.model.input.decode == "auto":
            del keys["model"]["input"]["decode"]
        if self.model.input.orientation == "none":
            del keys["model"]["input"]["orientation"]
        if self.model.output is None:
            del keys["model"]["output"]
        return keys

    def fingerprint(
        self,
        *,
        layers: Sequence[str],
        weights_digest: str,
        layouts: Mapping[str, str] | None = None,
        code: str | None = None,
    ) -> str:
        """Digest of everything that the result depends on (`dependent`).

        `layers`: the resolved layer names; `layouts`: those that the job gives, by layer; `weights_digest`: of the
        loaded weights; `code`: digest of the user's own code that defines the model.
        """
        covered = self.dependent()
        del covered["model"]["weights"]
        covered |= {"layers": list(layers), "weights": weights_digest, "format_version": FORMAT_VERSION}
        covered |= ({"layouts": dict(layouts)} if layouts else {}) | ({"code": code} if code else {})
        text = json.dumps(covered, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_yaml(self) -> str:
        """The resolved job as YAML, as in job.yaml of the output. Reading it gives the same job."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_job(text: str, *, name: str = "job", overrides: Sequence[str] = ()) -> Job:
    """Parse a job file's text. `overrides` are "key.path=value" strings, the value read as YAML.

    Raises JobError, one line, naming the file, the key and what would do.
    """
    data = load_yaml(text, name)
    if not isinstance(data, dict):
        raise JobError(f"{name}: a job file is a mapping with the keys dataset, model, layers, target, output")
    for override in overrides:
        apply_override(data, override)
    return parse_job(data, name=name)


def parse_job(data: Mapping[str, Any], *, name: str = "job") -> Job:
    """Check a mapping against the job file's keys. Raises JobError with the first mistake, unknown keys first."""
    try:
        return Job.model_validate(dict(data))
    except ValidationError as error:
        raise JobError(f"{name}: {explain(error, Job)}") from None


def load_job_file(path: str, overrides: Sequence[str] = ()) -> Job:
    """Read a job file from a local path. Raises JobError if it cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise JobError(f"{path}: cannot read the job file: {reason}") from None
    return read_job(text, name=path, overrides=overrides)
