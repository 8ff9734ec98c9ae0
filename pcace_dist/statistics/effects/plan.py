"""What the plan freezes for effects: axes, the grids of l and of the target, and the noise of another draw of the axes.

Pure: tensors in, tensors out. A target has an axis for each of its keys: the image's label, its group, or one for all
images (EffectTarget.kind). What a model is and where in it the maps are taken from is the caller's (`places`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics.effects.grid import MISSING, fixed_point
from pcace_dist.statistics.effects.positions import block_sizes, spread
from pcace_dist.statistics.folds import dealt_anew

Kind: TypeAlias = Literal["one", "label", "group"]
EVERY = ""  # the name of the ranking of all rows; no group has it
_TENSORS = ("axes", "offsets", "units", "noise", "mean_maps")


@dataclass(frozen=True)
class EffectTarget:
    """A target with effects.

    name: the target's. of: the function of the model whose effects they are; the target itself but where it is a
    column of the data. kind: what a row's axis goes by. keys: labels or names of groups, one for each axis; images:
    behind each axis. start: the number of its first axis among all. behind: images behind the axes of each ranking of
    the plan. centre, unit: the grid of its values.
    """

    name: str
    of: str
    kind: Kind
    keys: tuple[int | str, ...]
    images: tuple[int, ...]
    start: int
    behind: tuple[int, ...]
    centre: float
    unit: float

    def axes_of(self, labels: npt.NDArray[np.int64] | None, groups: Sequence[str] | None, rows: int) -> Tensor:
        """The axis of each row among those of all targets: int64 (rows,); -1 where it has none.

        labels: (rows,); groups: names.
        """
        if self.kind == "one":
            return torch.full((rows,), self.start, dtype=torch.int64)
        values = groups if self.kind == "group" else None if labels is None else labels.tolist()
        if values is None:
            raise StatisticsError(f"effect of {self.of}: axes go by the {self.kind} of each row, and rows have none")
        return torch.tensor([self._places.get(value, -1) for value in values], dtype=torch.int64)

    @cached_property
    def _places(self) -> dict[int | str, int]:
        return {key: self.start + place for place, key in enumerate(self.keys)}

    def __getstate__(self) -> dict[str, Any]:
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}


@dataclass(frozen=True, eq=False)
class LayerEffects:
    """What is frozen for one layer of C channels, whose effects are taken from maps of `shape`, in D blocks.

    axes: float32 (A, C, D), mean gradients of all targets' keys      offsets: float32 (A, C), < axis, mean map >
    units: float64 (E, C), grids of l      noise: float32 (E, R, C, F), pseudo-values of another draw of the axes, by
    target, ranking and fold      mean_maps: float32 (C, D), of the pilot; for gradients of single images
    """

    name: str
    shape: tuple[int, ...]
    axes: Tensor
    offsets: Tensor
    units: Tensor
    noise: Tensor
    mean_maps: Tensor

    @property
    def channels(self) -> int:
        return int(self.mean_maps.shape[0])

    def project(self, maps: Tensor, axes: Tensor) -> Tensor:
        """l, float32 (B, C, E), of block sums (B, C, D) whose rows have these axes, int64 (B, E) on their device; 0
        for -1. Products and sums go the same way for every row, whatever axes the others have."""
        values = maps.float()
        last = values.stride(2) != 1 and values.transpose(1, 2).is_contiguous()
        if last:
            values = values.transpose(1, 2)
        every, dim = (self._turned, 1) if last else (self.axes, 2)
        result = torch.empty((len(maps), self.channels, axes.shape[1]), dtype=torch.float32, device=maps.device)
        for index, own in enumerate(axes.unbind(1)):
            place = own.clamp(min=0)
            sums = torch.mul(values, every[place]).sum(dim)
            result[:, :, index] = (sums - self.offsets[place]) * (own >= 0).unsqueeze(1)
        return result

    def along(self, maps: Tensor, gradients: Tensor) -> Tensor:
        """l, float32 (B, C), of maps (B, C, D) whose images have these gradients of their own (B, C, D)."""
        values = maps.float().transpose(1, 2)
        own = gradients.float().transpose(1, 2)
        return torch.mul(values, own).sum(1) - torch.mul(own, self.mean_of_positions.T).sum(1)

    @cached_property
    def mean_of_positions(self) -> Tensor:
        """The mean map at each position, float32 (C, D)."""
        return spread(self.mean_maps / block_sizes(self.shape).to(self.mean_maps.device), self.shape).contiguous()

    def encode(self, values: Tensor) -> Tensor:
        """l as integers int16 (n, C, E), of what `project` gave; what is not finite counts as 0."""
        known = torch.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
        return fixed_point(known, torch.zeros((), dtype=torch.float64, device=values.device), self.units.T)

    def to(self, device: torch.device | str) -> LayerEffects:
        """The same with its tensors on `device`."""
        return replace(self, **{name: getattr(self, name).to(device) for name in _TENSORS})

    @cached_property
    def _turned(self) -> Tensor:
        """The axes as channels-last maps are multiplied by them: (A, D, C)."""
        return self.axes.transpose(1, 2).contiguous()

    def __getstate__(self) -> dict[str, Any]:
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}


@dataclass(frozen=True, eq=False)
class EffectPlan:
    """Effects as the pilot froze them.

    gradient: mean, image or path. at: activation or output, as asked. images: wanted behind each axis. targets: those
    with effects; statuses: why others have none, by target. axes_by: the column whose groups axes go by (kind group).
    group_by: the column whose groups are ranked. rankings: which of them have a noise of their own, EVERY first.
    places: JSON, where each layer's maps are taken from. note: why some targets have none, in words.
    """

    gradient: str
    at: str
    images: int
    targets: tuple[EffectTarget, ...]
    statuses: Mapping[str, str]
    axes_by: str | None
    group_by: str | None
    rankings: tuple[str, ...]
    places: Mapping[str, Any]
    layers: tuple[LayerEffects, ...]
    note: str | None = None

    @property
    def of_images(self) -> bool:
        """Whether every image has a gradient of its own, and there are no axes."""
        return self.gradient in ("image", "path")

    def layer(self, name: str) -> LayerEffects:
        """The effects of one layer."""
        return next(layer for layer in self.layers if layer.name == name)

    def index(self, target: str) -> int | None:
        """The number of a target among those with effects; None where it has none."""
        return next((index for index, own in enumerate(self.targets) if own.name == target), None)

    def axes_of(self, labels: npt.NDArray[np.int64] | None, groups: Sequence[str] | None, rows: int) -> Tensor:
        """Each row's axis for every target: int64 (rows, E); see EffectTarget.axes_of."""
        return torch.stack([target.axes_of(labels, groups, rows) for target in self.targets], 1)

    def encode_targets(self, values: Tensor, axes: Tensor) -> Tensor:
        """The targets' values float64 (n, E) as int16; MISSING where a row has no axis or no value. On their device."""
        centres, units = (part.to(values.device) for part in self._grids)
        known = torch.isfinite(values) & (axes.to(values.device) >= 0)
        fixed = fixed_point(torch.where(known, values, centres), centres, units)
        return torch.where(known, fixed, torch.full_like(fixed, MISSING))

    @cached_property
    def _grids(self) -> tuple[Tensor, Tensor]:
        grids = torch.tensor([(target.centre, target.unit) for target in self.targets], dtype=torch.float64)
        return grids[:, 0], grids[:, 1]

    def noise(self, layer: str, channels: slice, group: str, folds: int) -> npt.NDArray[np.float64]:
        """Pseudo-values of the axes' noise for some channels in the ranking of a group: float64 (E, C, folds).

        A group that had few images in the pilot, or none, gets the noise of all rows, as if all its images shared the
        axis with the fewest images behind it: too much rather than too little.
        """
        place = self._ranking(group)
        found = self.layer(layer).noise[:, place or 0, channels].double().numpy()
        if place is None:
            shares = [target.behind[0] / max(1, min(target.images, default=1)) for target in self.targets]
            found = found * np.sqrt(np.maximum(1.0, shares))[:, None, None]
        return dealt_anew(found, folds)

    def behind(self, index: int, group: str) -> int:
        """Images behind the axes that count in the ranking of a group, for one of the targets with effects; of the
        axis with the fewest, where it is not known which count."""
        place, target = self._ranking(group), self.targets[index]
        return min(target.images, default=0) if place is None else target.behind[place]

    def _ranking(self, group: str) -> int | None:
        """The number of a group's ranking; None where it has no noise of its own."""
        name = EVERY if self.group_by is None else group
        return self.rankings.index(name) if name in self.rankings else None

    def select(self, *, layers: Collection[str], targets: Collection[str]) -> EffectPlan:
        """The part of some layers and targets. Axes stay as they are numbered."""
        numbers = [index for index, own in enumerate(self.targets) if own.name in targets]
        chosen = self.choose(numbers, layers)
        return replace(chosen, statuses={name: status for name, status in self.statuses.items() if name in targets})

    def choose(self, numbers: Sequence[int], layers: Collection[str]) -> EffectPlan:
        """The same for the targets of these numbers, in their order, and for some layers."""
        own = [layer for layer in self.layers if layer.name in layers]
        rows = list(numbers)
        return replace(
            self,
            targets=tuple(self.targets[index] for index in rows),
            places={name: place for name, place in self.places.items() if name in layers},
            layers=tuple(replace(layer, units=layer.units[rows], noise=layer.noise[rows]) for layer in own),
        )

    def numbers_of(self, part: EffectPlan) -> list[int]:
        """The numbers here of the targets of a part of this plan, whatever they are called there."""
        starts = [own.start for own in self.targets]
        return [starts.index(own.start) for own in part.targets]

    def grouped_by(self, column: str | None) -> EffectPlan:
        """The same for rankings of another column's groups."""
        if column == self.group_by:
            return self
        layers = tuple(replace(layer, noise=layer.noise[:, :1]) for layer in self.layers)
        targets = tuple(replace(target, behind=target.behind[:1]) for target in self.targets)
        return replace(self, group_by=column, rankings=self.rankings[:1], targets=targets, layers=layers)

    def __getstate__(self) -> dict[str, Any]:
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors().values())

    # -- how it travels, within a plan

    def settings(self) -> dict[str, Any]:
        """Everything but tensors, as JSON."""
        return {
            "gradient": self.gradient,
            "at": self.at,
            "images": self.images,
            "targets": [{entry.name: getattr(own, entry.name) for entry in fields(own)} for own in self.targets],
            "statuses": dict(self.statuses),
            "axes_by": self.axes_by,
            "group_by": self.group_by,
            "rankings": list(self.rankings),
            "places": dict(self.places),
            "layers": [{"name": layer.name, "shape": list(layer.shape)} for layer in self.layers],
            "note": self.note,
        }

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {
            f"effects.{index}.{name}": getattr(layer, name)
            for index, layer in enumerate(self.layers)
            for name in _TENSORS
        }

    @classmethod
    def unpacked(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> EffectPlan:
        """What `settings` and `tensors` gave."""
        layers = tuple(
            LayerEffects(
                entry["name"],
                tuple(entry["shape"]),
                **{name: tensors[f"effects.{index}.{name}"] for name in _TENSORS},
            )
            for index, entry in enumerate(settings["layers"])
        )
        targets = tuple(
            EffectTarget(**{**own, **{name: tuple(own[name]) for name in ("keys", "images", "behind")}})
            for own in settings["targets"]
        )
        plain = ("gradient", "at", "images", "statuses", "axes_by", "group_by", "places", "note")
        rest = {name: settings[name] for name in plain}
        return cls(targets=targets, rankings=tuple(settings["rankings"]), layers=layers, **rest)
