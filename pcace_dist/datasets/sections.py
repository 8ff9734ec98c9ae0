"""The job file's sections about data and images: their keys, types and defaults, and what must hold between them.

Plain dataclasses: `config/job.py` has pydantic fill them from a job file, and everything here takes them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pcace_dist.storage.sections import said

LIST = {"type": ["array", "null"], "default": []}  # null is an empty list
Scalar = str | int | float | bool
Mode = Literal["RGB", "L", "tensor"]
TENSOR = "tensor"  # of the modes
CHANNELS = {"RGB": 3, "L": 1}  # of a mode; tensors have those that `mean` has
Interpolation = Literal["nearest", "nearest-exact", "bilinear", "bicubic"]
Decode = Literal["auto", "cpu", "gpu"]
AUTO = "auto"  # as `model.input`, or as one of these keys of it: as the model was trained
FROM_MODEL = ("mode", "resize", "crop", "mean", "std", "interpolation", "antialias", "scaled_decode", "crop_offset")


@dataclass(frozen=True)
class Dataset:
    """`dataset`: which files, and which of their columns mean what."""

    path: list[str] = field(
        metadata=said(
            "Parquet files with the images: a folder, a glob, a file or a list of these; local or s3://.",
            "s3://bucket/imagenet/train",
            ["2024/*.parquet", "2025/*.parquet"],
            also={"type": ["string", "array"]},  # one path is a list of one
        )
    )
    image: str = field(
        default="image",
        metadata=said("Column with the encoded images: bytes, or struct<bytes, path> as Hugging Face has it.", "photo"),
    )
    label: str | None = field(default=None, metadata=said("Column with the class: its index or its name.", "label"))
    label_base: int | None = field(
        default=None,
        metadata=said(
            "Number of the first class; null: 0, and labels that may count from 1 are refused.", 1, ge=0, lt=2**63
        ),
    )
    classes: str | list[str] | None = field(
        default=None,
        metadata=said(
            "Names of the classes in the order of the model's outputs, or a file that lists them.",
            ["cat", "dog"],
            "classes.txt",
        ),
    )
    id: str | None = field(
        default=None, metadata=said("Column with a unique id of each image; null: FILE#ROW.", "image_id")
    )
    fold_by: str | None = field(
        default=None,
        metadata=said(
            "Column whose equal values share a fold: for related images, such as crops of one photograph. Without it "
            "intervals are too narrow for these.",
            "photograph",
        ),
    )
    filter: dict[str, Scalar | list[Scalar]] = field(
        default_factory=dict,
        metadata=said(
            "Only rows in which these columns have this value, or one of these.",
            {"label": 3},
            {"borough": ["north", "south"]},
            also={"default": {}},
        ),
    )
    join: str | None = field(
        default=None,
        metadata=said("With kept codes: Parquet files with further columns, joined by the id.", "no2.parquet"),
    )


@dataclass(frozen=True)
class Input:
    """`model.input`: what the model takes in, with torchvision's meaning."""

    mode: Mode = field(
        default="RGB",
        metadata=said(
            "Colour channels: RGB, or L for one grey channel. tensor: no images, but float32 arrays of NumPy (.npy; "
            "channels, height, width) as the model takes them, with as many channels as `mean` has values.",
            "L",
            "tensor",
        ),
    )
    resize: int | tuple[int, int] | None = field(
        default=None,
        metadata=said(
            "Size of the shorter side after scaling, or [height, width] exactly; null: as stored.",
            256,
            [224, 224],
            unit="pixels",
        ),
    )
    crop: int | tuple[int, int] | None = field(
        default=None,
        metadata=said("Size of the crop from the centre, or [height, width]; null: no crop.", 224, unit="pixels"),
    )
    mean: list[float] = field(
        default_factory=list,
        metadata=said(
            "Subtracted from pixel / 255, a number for each colour channel; empty: 0.", [0.485, 0.456, 0.406], also=LIST
        ),
    )
    std: list[float] = field(
        default_factory=list,
        metadata=said(
            "Divides the rest, a number above 0 for each colour channel; empty: 1.",
            [0.229, 0.224, 0.225],
            also=LIST,
        ),
    )
    interpolation: Interpolation = field(
        default="bilinear", metadata=said("How `resize` computes pixels between pixels.", "bicubic")
    )
    antialias: bool = field(default=True, metadata=said("Whether `resize` smooths what it makes smaller.", False))
    scaled_decode: bool = field(
        default=True, metadata=said("Whether much larger JPEGs are decoded at 1/2, 1/4 or 1/8.", False)
    )
    decode: Decode = field(
        default="auto", metadata=said("What decodes JPEGs: cpu, gpu (nvJPEG), or auto, which is cpu for now.", "gpu")
    )
    orientation: Literal["none", "exif"] = field(
        default="none",
        metadata=said("none: pixels as they are stored; exif: turned as the file's orientation tag says.", "exif"),
    )
    crop_offset: Literal["round", "floor"] = field(
        default="round",
        metadata=said(
            "Where a crop with an odd margin begins: at the even one of two pixels (round, as torchvision) or at the "
            "lower (floor, as transformers).",
            "floor",
        ),
    )

    @property
    def image_channels(self) -> int:
        return CHANNELS.get(self.mode, len(self.mean))

    def __post_init__(self) -> None:
        channels = CHANNELS.get(self.mode, len(self.mean) or len(self.std) or 3)
        object.__setattr__(self, "mean", self.mean or [0.0] * channels)
        object.__setattr__(self, "std", self.std or [1.0] * channels)
        for name, value in (("mean", self.mean), ("std", self.std)):
            if len(value) != channels:
                raise ValueError(f"{name}: {len(value)} values; mode {self.mode} needs {channels}")
        if any(s <= 0 for s in self.std):
            raise ValueError("std: every value must be above 0")
        if self.mode == TENSOR and self.decode == "gpu":
            raise ValueError("decode: a GPU decodes JPEGs, and mode tensor has none; leave decode out")
        for name, size in (("resize", self.resize), ("crop", self.crop)):
            sizes = [size] if isinstance(size, int) else list(size or ())
            if any(s < 1 for s in sizes):
                raise ValueError(f"{name}: must be at least 1 pixel")


@dataclass(frozen=True)
class Limits:
    """`limits`: the largest image that is decoded."""

    pixels: int = field(
        default=178_956_970,
        metadata=said("Pixels of the largest image; a larger one is a bad row.", 500_000_000, unit="pixels", ge=1),
    )
    bytes: int = field(
        default=67_108_864,
        metadata=said("Bytes of the largest image file; a larger one is a bad row.", 268_435_456, unit="bytes", ge=1),
    )
