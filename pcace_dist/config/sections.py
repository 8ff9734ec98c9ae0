"""The job file's sections: their keys with type, default, bounds, meaning and examples, each declared once.

`Dataset`, `Input`, `Limits` and `Endpoint` are plain dataclasses of the rooms that read them (datasets/sections.py,
storage/sections.py); `config/job.py` puts all of them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from pcace_dist.config.targets import TARGET_SCHEMA, TargetSpec, parse_target
from pcace_dist.config.text import SIZE, parse_bytes
from pcace_dist.datasets.sections import AUTO, FROM_MODEL, Input
from pcace_dist.errors import JobError
from pcace_dist.storage.sections import said

Gradient = Literal["auto", "mean", "image", "path", "off", False]
Target = Annotated[dict[str, str | int], WithJsonSchema(TARGET_SCHEMA)]
Size = int | Annotated[str, Field(pattern=SIZE)] | None  # as a job file writes it


class Section(BaseModel):
    """A mapping of the job file: unknown keys are errors, values are not coerced silently, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, validate_default=False, allow_inf_nan=False)


def key(meaning: str, *examples: Any, default: Any = ..., **more: Any) -> Any:
    """A key with its default (none: it is required) and with what it says of itself (`said`)."""
    return Field(default, **said(meaning, *examples, **more))


def _or_auto(node: JsonSchemaValue) -> JsonSchemaValue:
    """A key's JSON schema that takes `auto` too."""
    kinds = {name: value for name, value in node.items() if name in ("$ref", "anyOf", "type", "enum", "items")}
    return {name: value for name, value in node.items() if name not in kinds} | {"anyOf": [{"const": AUTO}, kinds]}


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
        "How images become the model's input; auto, also for one of its keys: as the model was trained.",
        {"resize": 256, "crop": 224, "mean": [0.5, 0.5, 0.5]},
        "auto",
        default=Input(),
    )
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
        given |= {key: _or_auto(given[key]) for key in FROM_MODEL}
        keys["input"] = _or_auto(keys["input"])
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


class Effect(Section):
    """`effect`: what the model does with a channel, by its gradients (docs/method.md, section 7)."""

    gradient: Literal["auto", "mean", "image", "path", "off"] = key(
        "Gradient of the effect: the mean over a class's images, each image's own, that along a path, none (off); "
        "auto: as the target asks.",
        "image",
        default="auto",
    )
    images: int = key(
        "Images of a class or group whose mean gradient is its axis.", 256, default=64, unit="images", ge=16, le=65536
    )
    at: Literal["activation", "output"] = key(
        "Where a channel is looked at: after the norm and activation that follow the layer, or at its own output.",
        "output",
        default="activation",
    )
    of: Target | None = key(
        "For a target that is a column of the data: the output of the model that is watched instead.",
        {"output": 0},
        default=None,
    )

    @field_validator("gradient", mode="before", json_schema_input_type=Gradient)
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
    tails: float = key(
        "Share of the images beyond the outermost knots at each end: 0.01 keeps a score from resting on a few of them.",
        0.01,
        default=0.0,
        ge=0,
        le=0.2,
    )
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
