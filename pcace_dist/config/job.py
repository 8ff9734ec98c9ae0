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
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from pcace_dist.config.explain import explain
from pcace_dist.config.targets import TargetSpec, parse_target, reduction_of
from pcace_dist.config.text import apply_override, load_yaml, parse_bytes
from pcace_dist.datasets.sections import AUTO, FROM_MODEL, Dataset, Input, Limits
from pcace_dist.errors import JobError
from pcace_dist.storage.sections import Endpoint

FORMAT_VERSION = 1


class Section(BaseModel):
    """A mapping of the job file: unknown keys are errors, values are not coerced silently, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, validate_default=False, allow_inf_nan=False)


class Model(Section):
    factory: str
    kwargs: dict[str, Any] = {}
    weights: str
    output: Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1)] | None = None
    input: Input = Input()
    _auto: frozenset[str] = PrivateAttr(frozenset())

    @property
    def auto(self) -> frozenset[str]:
        """Keys of `input` that the model is to say (run/input_of_model.py); until then they have their defaults."""
        return self._auto

    @model_validator(mode="wrap")
    @classmethod
    def _take_auto(cls, values: object, handler: ModelWrapValidatorHandler[Model]) -> Model:
        given = values.get("input") if isinstance(values, Mapping) else None
        given = dict.fromkeys(FROM_MODEL, AUTO) if given == AUTO else given
        auto = frozenset(key for key in FROM_MODEL if isinstance(given, Mapping) and given.get(key) == AUTO)
        if not auto or not isinstance(values, Mapping) or not isinstance(given, Mapping):
            return handler(values)
        model = handler({**values, "input": {key: value for key, value in given.items() if key not in auto}})
        model._auto = auto
        return model

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """With `auto` for the input and for what the model may say of it."""
        schema = handler(core)
        keys = handler.resolve_ref_schema(schema)["properties"]
        given = handler.resolve_ref_schema({"$ref": keys["input"]["$ref"]})["properties"]
        given |= {key: {"anyOf": [{"const": AUTO}, given[key]]} for key in FROM_MODEL}
        keys["input"] = {"anyOf": [{"const": AUTO}, {"$ref": keys["input"]["$ref"]}]}
        return schema

    @model_serializer(mode="wrap")
    def _give_auto(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        if self._auto:
            written["input"] = {**written.get("input", {}), **dict.fromkeys(sorted(self._auto), AUTO)}
        return written

    @field_validator("input", mode="before")
    @classmethod
    def _unsaid(cls, value: object) -> object:
        """An empty mean or std is none."""
        if not isinstance(value, Mapping):
            return value
        return {key: each for key, each in value.items() if each or key not in ("mean", "std")}


class Statistics(Section):
    estimator: Literal["gram", "ace"] = "gram"
    components: Annotated[int, Field(ge=1, le=20)] = 5
    knots: Annotated[int, Field(ge=3, le=32)] = 9
    folds: Annotated[int, Field(ge=4, le=64)] = 16
    pilot: Annotated[int, Field(ge=32)] = 2048
    scale: Literal["pixel", "standard", "none"] = "pixel"
    penalty: Annotated[float, Field(ge=0, le=1e6)] = 0.3
    knots_from: Literal["plan", "rows", "group"] = "plan"
    plan: str | None = None
    keep_codes: bool = False
    memory: int | None = None

    @field_validator("memory", mode="before")
    @classmethod
    def _bytes(cls, value: object) -> object:
        return parse_bytes(value)


class Effect(Section):
    """Effects: what the model does with a channel (docs/method.md, section 11)."""

    gradient: Literal["auto", "mean", "image", "path", "off"] = "auto"
    images: Annotated[int, Field(ge=16, le=65536)] = 64
    at: Literal["activation", "output"] = "activation"
    of: dict[str, str | int] | None = None

    @field_validator("gradient", mode="before")
    @classmethod
    def _yaml_off(cls, value: object) -> object:
        return "off" if value is False else value  # YAML 1.1 reads a bare `off` as false

    @field_validator("of")
    @classmethod
    def _of_the_model(cls, value: dict[str, str | int] | None) -> dict[str, str | int] | None:
        if value is None:
            return None
        try:
            known = parse_target(value)
        except JobError as error:
            raise ValueError(str(error)) from None
        if not known.of_outputs:
            raise ValueError(f"{known.written} is no function of the model; for example {{output: 0}}")
        if known.kind == "cosine":
            raise ValueError(f"{known.written} can only be a target; for example {{output: 0}}")
        return value

    @property
    def watched(self) -> TargetSpec | None:
        """The function of the model whose effects stand for those of targets that are none."""
        return None if self.of is None else parse_target(self.of)


class Stop(Section):
    top: Annotated[int, Field(ge=1)] = 20
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    tolerance: Annotated[float, Field(ge=0)] = 0.01


class Workers(Section):
    min: Annotated[int, Field(ge=1, le=100_000)] = 1
    max: Annotated[int, Field(ge=1, le=100_000)] = 2
    gpus: Annotated[float, Field(ge=0, le=1000)] = 0
    cpus: Annotated[float, Field(gt=0, le=100_000)] = 1
    memory: int | None = None
    resources: dict[str, float] = {}
    start_timeout: Annotated[float, Field(gt=0)] = 600

    @field_validator("memory", mode="before")
    @classmethod
    def _bytes(cls, value: object) -> object:
        return parse_bytes(value)

    @model_validator(mode="after")
    def _check(self) -> Workers:
        if self.min > self.max:
            raise ValueError(f"min: {self.min} is above workers.max {self.max}")
        return self


class Compute(Section):
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    batch: Literal["auto"] | Annotated[int, Field(ge=1, le=1_000_000)] = "auto"
    exact: Literal["strict", "off"] = "strict"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @field_validator("exact", mode="before")
    @classmethod
    def _yaml_off(cls, value: object) -> object:
        return "off" if value is False else value  # YAML 1.1 reads a bare `off` as false

    @property
    def fixed_batch(self) -> int | None:
        """None where the pilot is to choose it."""
        return None if self.batch == "auto" else self.batch


class Layer(Section):
    """A layer, or a glob of layers, whose channels lie on the axis that `layout` says."""

    name: Annotated[str, Field(min_length=1)]
    layout: Literal["BCL", "BNC", "BCHW", "BHWC", "BCDHW", "BDHWC"]


class Job(Section):
    """A resolved job. Only dataset.path, model.factory, model.weights, layers, target and output are required."""

    dataset: Dataset
    model: Model
    layers: list[str | Layer]
    target: list[dict[str, str | int]]
    group_by: str | None = None
    effect: Effect = Effect()
    statistics: Statistics = Statistics()
    stop: Stop | None = None
    extend: str | None = None
    workers: Workers = Workers()
    compute: Compute = Compute()
    limits: Limits = Limits()
    max_bad_rows: Annotated[float, Field(ge=0, le=1)] = 0.01
    storage: dict[str, Endpoint] = {}
    output: Annotated[str, Field(min_length=1)]

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

    @field_validator("layers", mode="before")
    @classmethod
    def _layers(cls, value: object) -> object:
        return [value] if isinstance(value, str | Mapping) else value

    @field_validator("layers")
    @classmethod
    def _some_layer(cls, value: list[str | Layer]) -> list[str | Layer]:
        if not value:
            raise ValueError('names no layer; use "all" for every convolutional layer')
        return value

    @field_validator("target", mode="before")
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
        of model.input, model.output: null, dataset.label_base: 0, dataset.classes: null, and an `effect` that says
        nothing: jobs written before these keys existed keep their fingerprint."""
        independent: dict[str, Any] = {
            "workers": True,
            "storage": True,
            "max_bad_rows": True,
            "output": True,
            "compute": {"exact"},
            "statistics": {"memory"},
        }
        keys = self.model_dump(mode="json", exclude=independent)
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
