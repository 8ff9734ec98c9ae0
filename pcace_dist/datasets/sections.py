"""The job file's sections about data and images: their keys, types and defaults, and what must hold between them.

Plain dataclasses: `config/job.py` has pydantic fill them from a job file, and everything here takes them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Scalar = str | int | float | bool
Mode = Literal["RGB", "L"]
Interpolation = Literal["nearest", "nearest-exact", "bilinear", "bicubic"]
Decode = Literal["auto", "cpu", "gpu"]
AUTO = "auto"  # as `model.input`, or as one of these keys of it: as the model was trained
FROM_MODEL = ("mode", "resize", "crop", "mean", "std", "interpolation", "antialias", "scaled_decode", "crop_offset")


@dataclass(frozen=True)
class Dataset:
    """`dataset`: which files, and which of their columns mean what.

    `classes`: names of the classes in the order of the model's outputs, or a file that lists them. `label_base`: what
    the first class is called where labels are numbers: 0, or 1 where they count from 1.
    """

    path: list[str]
    image: str = "image"
    label: str | None = None
    label_base: int | None = field(default=None, metadata={"ge": 0})
    classes: str | list[str] | None = None
    id: str | None = None
    fold_by: str | None = None
    filter: dict[str, Scalar | list[Scalar]] = field(default_factory=dict)
    join: str | None = None


@dataclass(frozen=True)
class Input:
    """`model.input`: what the model takes in.

    `resize` int: the shorter side, aspect kept; (h, w): exact. `crop`: centre crop, int or (h, w); what is smaller is
    padded with 0. torchvision's meaning. `crop_offset`: a crop whose margin is odd begins at the even one of two pixels
    (round, torchvision's) or at the lower (floor, transformers'). `mean`, `std`: one for each image channel, 0 and 1
    where none are given. `scaled_decode`: whether much larger JPEGs are decoded at 1/2, 1/4 or 1/8. `orientation`: none
    (pixels as stored) or exif (turned as the file's orientation tag says).
    """

    mode: Mode = "RGB"
    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    scaled_decode: bool = True
    decode: Decode = "auto"
    orientation: Literal["none", "exif"] = "none"
    crop_offset: Literal["round", "floor"] = "round"

    @property
    def image_channels(self) -> int:
        return 3 if self.mode == "RGB" else 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", self.mean or [0.0] * self.image_channels)
        object.__setattr__(self, "std", self.std or [1.0] * self.image_channels)
        for name, value in (("mean", self.mean), ("std", self.std)):
            if len(value) != self.image_channels:
                raise ValueError(f"{name}: {len(value)} values; mode {self.mode} needs {self.image_channels}")
        if any(s <= 0 for s in self.std):
            raise ValueError("std: every value must be above 0")
        for name, size in (("resize", self.resize), ("crop", self.crop)):
            sizes = [size] if isinstance(size, int) else list(size or ())
            if any(s < 1 for s in sizes):
                raise ValueError(f"{name}: must be at least 1 pixel")


@dataclass(frozen=True)
class Limits:
    """`limits`: the largest image that is decoded. pydantic reads the bounds."""

    pixels: int = field(default=178_956_970, metadata={"ge": 1})
    bytes: int = field(default=67_108_864, metadata={"ge": 1})
