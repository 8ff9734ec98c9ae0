"""The plan: everything that is frozen after the pilot. It turns activation maps into integers.

Pure: tensors in, tensors out. It knows no models, files or Ray. Plans travel between machines as bytes
(`Plan.to_bytes`), and are named by `Plan.digest`, which depends on content alone.

A channel's map (D pixels) becomes p components, `maps . weights - offsets`: pixels centred and scaled,
projected on the principal axes of the pilot. Components become uint8 codes on frozen knots (basis.py); the
mean of the map and the target become int16 on a fixed-point grid (for Pearson's correlation and the mean
activation).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics import basis, pca, tensorfile
from pcace_dist.statistics.effects.grid import fixed_point, grid_of
from pcace_dist.statistics.effects.plan import EffectPlan
from pcace_dist.statistics.loops import channels_last
from pcace_dist.statistics.loops.packed_axes import pack, unpack
from pcace_dist.statistics.maps import by_channel
from pcace_dist.statistics.plan_noise.noise import PlanNoise

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

Passes: TypeAlias = Callable[[], Iterator[Mapping[str, Tensor]]]
Needs: TypeAlias = Callable[[Collection[str]], None]

FORMAT_VERSION, WITH_EFFECTS, WITH_NOISE = 1, 2, 3  # a plan without noise or effects is what the earlier ones wrote
_LAYER_TENSORS = ("weights", "offsets", "knots", "spread", "live", "explained", "mean_centre", "mean_unit")


@dataclass(frozen=True, eq=False)
class LayerCodes:
    """The integers of n rows of one layer: codes uint8 (n, C, p), means int16 (n, C) on the plan's grid, effects int16
    (n, C, E), l of each target with effects; None where the plan has none."""

    codes: Tensor
    means: Tensor
    effects: Tensor | None = None

    @property
    def rows(self) -> int:
        return int(self.codes.shape[0])

    @property
    def nbytes(self) -> int:
        return self.codes.numel() + 2 * self.means.numel() + (0 if self.effects is None else 2 * self.effects.numel())

    def block(self, channels: slice) -> LayerCodes:
        """The codes of some of the channels (a view)."""
        return self.each(lambda part: part[:, channels])

    def take(self, rows: Tensor | slice) -> LayerCodes:
        """The codes of some of the rows."""
        if isinstance(rows, slice) or rows.dtype == torch.bool:
            return self.each(lambda part: part[rows])
        index = rows.to(self.codes.device)
        return self.each(lambda part: part.index_select(0, index))  # faster than an index

    def cpu(self) -> LayerCodes:
        return self.to("cpu")

    def to(self, device: torch.device | str) -> LayerCodes:
        return self.each(lambda part: part.to(device))

    def tensors(self) -> list[Tensor]:
        """Codes, means and, where there are some, effects."""
        return [self.codes, self.means] + ([] if self.effects is None else [self.effects])

    def effects_of(self, rows: slice, channels: slice) -> Tensor:
        """l of some rows and channels (a view). StatisticsError where the codes have none."""
        if self.effects is None:
            raise StatisticsError("codes without effects under a plan with them")
        return self.effects[rows, channels]

    def without_effects(self) -> LayerCodes:
        return LayerCodes(self.codes, self.means)

    def each(self, change: Callable[[Tensor], Tensor]) -> LayerCodes:
        """The same with all its tensors changed."""
        effects = None if self.effects is None else change(self.effects)
        return LayerCodes(change(self.codes), change(self.means), effects)

    @staticmethod
    def cat(parts: Iterable[LayerCodes], dim: int = 0) -> LayerCodes:
        """Rows of several parts, one after the other; with `dim` 1 their channels."""
        every = list(parts)
        if len(every) == 1:
            return every[0]
        effects = [part.effects for part in every if part.effects is not None]
        return LayerCodes(
            torch.cat([part.codes for part in every], dim),
            torch.cat([part.means for part in every], dim),
            torch.cat(effects, dim) if effects else None,
        )


@dataclass(frozen=True, eq=False)
class LayerPlan:
    """What is frozen for one layer of C channels with maps of D pixels.

    weights: float32 (C, D, p), axes divided by the pixels' scales      offsets: float32 (C, p)
    knots: float32 (C, p, K)        spread: float32 (C, p), robust standard deviation of each component
    live: bool (C, p), the component has variance in the pilot
    explained: float32 (C, p), its share of the variance of the scaled pixels
    mean_centre, mean_unit: float64 (C), grid of the map's mean: q = round((mean - centre) / unit)
    """

    name: str
    shape: tuple[int, ...]
    channels: int
    weights: Tensor
    offsets: Tensor
    knots: Tensor
    spread: Tensor
    live: Tensor
    explained: Tensor
    mean_centre: Tensor
    mean_unit: Tensor

    @property
    def components(self) -> int:
        return int(self.offsets.shape[1])

    @property
    def pixels(self) -> int:
        return int(self.weights.shape[1])

    @cached_property
    def _rows(self) -> Tensor:
        """Transposed weights with 1/D as a last row: one product gives components and mean. (C, p+1, D)."""
        mean = self.weights.new_full((self.channels, 1, self.pixels), 1.0 / self.pixels)
        return torch.cat([self.weights.transpose(1, 2), mean], dim=1).contiguous()

    @cached_property
    def _axes(self) -> Tensor:
        """The weights as the loop over channels-last maps takes them."""
        return pack(self.weights)

    @cached_property
    def _intervals(self) -> basis.Intervals:
        return basis.Intervals.of(self.knots)

    def with_projection_layout(self) -> LayerPlan:
        """The same plan with its weights in memory as `project` multiplies by them: they are held once, not twice."""
        if self.weights.device.type == "cpu" and channels_last.is_large(self.channels, self.pixels):
            return _PackedLayer(**{entry.name: getattr(self, entry.name) for entry in fields(self)})
        result = replace(self, weights=self._rows[:, :-1].transpose(1, 2))
        result.__dict__["_rows"] = self._rows
        return result

    def project(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Components float32 (B, C, p) and means float32 (B, C) of maps (B, C, D).

        Accumulated in float32. Large channels-last maps on a processor are multiplied where they lie
        (loops/channels_last.py). Others by one batched product over the channels on a transposed view: contiguous
        float32 maps are not copied; what is left is turned round and widened first, exactly (maps.py).
        """
        if maps.dim() != 3 or maps.shape[1:] != (self.channels, self.pixels):
            raise StatisticsError(
                f"layer {self.name}: maps of shape {tuple(maps.shape)} do not fit the plan's"
                f" (rows, {self.channels}, {self.pixels})"
            )
        if channels_last.supports(maps):
            return channels_last.project(maps, self._axes, self.offsets)
        shape = (maps.shape[0], self.channels)
        components = torch.empty((*shape, self.components), dtype=torch.float32, device=maps.device)
        means = torch.empty(shape, dtype=torch.float32, device=maps.device)
        for channels, part in by_channel(maps):
            product = torch.bmm(self._rows[channels], part.permute(1, 2, 0))  # (channels, p+1, B)
            torch.sub(product[:, :-1].permute(2, 0, 1), self.offsets[channels], out=components[:, channels])
            means[:, channels] = product[:, -1].T
        return components, means

    def encode(self, components: Tensor, means: Tensor) -> LayerCodes:
        """Codes of what `project` gave."""
        return LayerCodes(self._intervals.encode(components), fixed_point(means, self.mean_centre, self.mean_unit))

    def block(self, channels: slice) -> LayerPlan:
        """The plan of some of the channels (views, but for weights that are packed)."""
        weights, *others = _LAYER_TENSORS
        parts = {name: getattr(self, name)[channels] for name in others} | {weights: self._weights_of(channels)}
        return LayerPlan(self.name, self.shape, len(range(*channels.indices(self.channels))), **parts)

    def _weights_of(self, channels: slice) -> Tensor:
        return self.weights[channels]

    def first_components(self, components: int) -> LayerPlan:
        """The plan of the first components only (views where there is nothing to leave out)."""
        parts = {
            name: getattr(self, name)[:, :components] for name in ("offsets", "knots", "spread", "live", "explained")
        }
        return replace(self, weights=self.weights[:, :, :components], **parts)

    def to(self, device: torch.device | str) -> LayerPlan:
        """The same plan with its tensors on `device`."""
        return replace(self, **{name: getattr(self, name).to(device) for name in _LAYER_TENSORS})

    def __getstate__(self) -> dict[str, Any]:
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}


class _PackedLayer(LayerPlan):
    """A layer whose weights are held as the loop over channels-last maps reads them: a copy whenever they are asked
    for."""

    @property
    def weights(self) -> Tensor:
        return self._weights_of(slice(None))

    @weights.setter
    def weights(self, weights: Tensor) -> None:
        self.__dict__["_axes"] = pack(weights)

    @property
    def pixels(self) -> int:
        return int(self._axes.shape[1])

    def _weights_of(self, channels: slice) -> Tensor:
        return unpack(self._axes, self.channels, channels)

    def __reduce__(self) -> tuple[type[LayerPlan], tuple[Any, ...]]:
        return LayerPlan, tuple(getattr(self, entry.name) for entry in fields(self))


@dataclass(frozen=True, eq=False)
class TargetPlan:
    """What is frozen for one target: knots float64 (K), its robust spread, and the grid of its fixed-point value."""

    name: str
    knots: npt.NDArray[np.float64]
    spread: float
    centre: float
    unit: float


@dataclass(frozen=True, eq=False)
class Plan:
    """Layers and targets as frozen by the pilot. `facts` (JSON) is the caller's: batch, precision, numeric class.

    noise: what another pilot would change in the scores; None where that is not known. tails: the share of the pilot
    beyond the knots at each end.
    """

    layers: tuple[LayerPlan, ...]
    targets: tuple[TargetPlan, ...]
    components: int
    knots: int
    folds: int
    scale: str
    pilot_rows: int
    facts: Mapping[str, JSON]
    effects: EffectPlan | None = None
    noise: PlanNoise | None = None
    tails: float = 0.0

    @property
    def effect_targets(self) -> int:
        """How many targets have effects."""
        return 0 if self.effects is None else len(self.effects.targets)

    def layer(self, name: str) -> LayerPlan:
        """The plan of one layer; StatisticsError if the plan has none of that name."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise StatisticsError(f"layer {name}: not in the plan, which has {', '.join(x.name for x in self.layers)}")

    def encode_targets(self, values: npt.NDArray[np.float64] | Tensor) -> tuple[Tensor, Tensor]:
        """Codes uint8 (n, T) and fixed-point values int16 (n, T) of all targets' values (n, T); no NaN. On
        the values' device."""
        exact = torch.as_tensor(values).double()
        intervals, centres, units = self._target_grids
        device = exact.device
        return intervals.to(device).encode(exact), fixed_point(exact, centres.to(device), units.to(device))

    @cached_property
    def _target_grids(self) -> tuple[basis.Intervals, Tensor, Tensor]:
        """Intervals of the knots (T, K), centres (T,) and units (T,) of all targets, float64."""
        knots = torch.from_numpy(np.stack([target.knots for target in self.targets]))
        grids = torch.tensor([(target.centre, target.unit) for target in self.targets], dtype=torch.float64)
        return basis.Intervals.of(knots), grids[:, 0], grids[:, 1]

    @cached_property
    def digest(self) -> str:
        """Name of the plan: blake2b (128 bits, hex) over its settings and every tensor's name, shape and bytes."""
        digest = blake2b(self._settings().encode(), digest_size=16)
        tensors = self._tensors()
        for name in sorted(tensors):
            tensor = tensors[name].detach().cpu().contiguous()  # one at a time: weights in projection layout are copied
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        """The plan as a safetensors file; the same bytes for the same content."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self._tensors().items()}
        return tensorfile.pack("plan", self._settings(), tensors)

    @classmethod
    def from_bytes(cls, data: bytes, *, digest: str | None = None) -> Plan:
        """The plan that `to_bytes` wrote; StatisticsError if it is not one, or not the one of this digest."""
        try:
            plan = cls._unpacked(data)
            damaged = digest is not None and plan.digest != digest
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise StatisticsError(f"plan: cannot be read ({type(error).__name__})") from error
        if damaged:
            raise StatisticsError("plan: is not what its name says")
        return plan

    @classmethod
    def _unpacked(cls, data: bytes) -> Plan:
        settings, tensors = tensorfile.unpack("plan", data)
        if settings.pop("format_version") not in (FORMAT_VERSION, WITH_EFFECTS, WITH_NOISE):
            raise StatisticsError(f"plan: format is not {WITH_NOISE}; rank with the version that wrote it")
        effects, noise = settings.pop("effects", None), settings.pop("noise", None)
        layers = tuple(_layer_from(index, entry, tensors) for index, entry in enumerate(settings.pop("layers")))
        names = settings.pop("targets")
        grids, knots = tensors["targets.grid"].numpy(), tensors["targets.knots"].numpy()
        targets = tuple(
            TargetPlan(name, knots[index].copy(), *map(float, grids[index])) for index, name in enumerate(names)
        )
        known = None if effects is None else EffectPlan.unpacked(effects, tensors)
        held = None if noise is None else PlanNoise.unpacked(noise, tensors, [layer.name for layer in layers])
        return cls(layers=layers, targets=targets, effects=known, noise=held, **settings)

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors by name, as they are held."""
        tensors: dict[str, Tensor] = {
            f"layers.{index}.{name}": getattr(layer, name)
            for index, layer in enumerate(self.layers)
            for name in _LAYER_TENSORS
        }
        knots = np.stack([target.knots for target in self.targets]) if self.targets else np.zeros((0, self.knots))
        grid = [[target.spread, target.centre, target.unit] for target in self.targets]
        tensors["targets.knots"] = torch.from_numpy(knots)
        tensors["targets.grid"] = torch.tensor(grid, dtype=torch.float64).reshape(-1, 3)
        if self.effects is not None:
            tensors |= self.effects.tensors()
        return tensors if self.noise is None else tensors | self.noise.tensors([layer.name for layer in self.layers])

    def _settings(self) -> str:
        """Everything else as canonical JSON."""
        settings = {
            "format_version": self._format,
            "layers": [{"name": x.name, "shape": list(x.shape), "channels": x.channels} for x in self.layers],
            "targets": [target.name for target in self.targets],
            "components": self.components,
            "knots": self.knots,
            "folds": self.folds,
            "scale": self.scale,
            "pilot_rows": self.pilot_rows,
            "facts": dict(self.facts),
            **({"tails": self.tails} if self.tails else {}),  # not in plans that were made before it
            **({} if self.effects is None else {"effects": self.effects.settings()}),
            **({} if self.noise is None else {"noise": self.noise.settings()}),
        }
        return json.dumps(settings, sort_keys=True, separators=(",", ":"))

    @property
    def _format(self) -> int:
        if self.noise is not None:
            return WITH_NOISE
        return FORMAT_VERSION if self.effects is None else WITH_EFFECTS

    def __getstate__(self) -> dict[str, Any]:
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}


def _layer_from(index: int, entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LayerPlan:
    parts = {name: tensors[f"layers.{index}.{name}"] for name in _LAYER_TENSORS}
    return LayerPlan(name=entry["name"], shape=tuple(entry["shape"]), channels=entry["channels"], **parts)


def robust_spread(values: Tensor) -> Tensor:
    """Robust standard deviation (m,) of values (n, m): quartile distance / 1.349.

    The plain standard deviation where the quartiles all but coincide (atoms), 1 where that is zero too.
    """
    ordered = basis.sorted_rows(values.T.contiguous()).double()
    last = ordered.shape[1] - 1
    robust = (ordered[:, round(0.75 * last)] - ordered[:, round(0.25 * last)]) / 1.349
    plain = ordered.std(dim=1, correction=0)
    spread = torch.where(robust > 0.05 * plain, robust, plain)
    return torch.where(spread > 0, spread, torch.ones_like(spread)).to(values.dtype)


def make_target_plan(name: str, values: npt.NDArray[np.float64], knots: int, tails: float = 0.0) -> TargetPlan:
    """Knots, spread and grid of one target from the pilot's values (n,), float64 and finite."""
    column = torch.as_tensor(np.asarray(values, dtype=np.float64)).reshape(-1, 1)
    if not bool(torch.isfinite(column).all()):
        raise StatisticsError(f"target {name}: the pilot holds NaN or infinite values")
    centre, unit = grid_of(column)
    chosen = basis.choose_knots(column, knots, tails)[0].numpy()
    return TargetPlan(name, chosen, float(robust_spread(column)[0]), float(centre[0]), float(unit[0]))


def make_layer_plan(
    name: str,
    shape: tuple[int, ...],
    axes: pca.Axes,
    components: Tensor,
    means: Tensor,
    knots: int,
    tails: float = 0.0,
) -> LayerPlan:
    """A layer's plan from its axes (weights, offsets, live, explained) and the projected pilot.

    components: float32 (n, C, p); means: float32 (n, C), as `LayerPlan.project` gives them.
    """
    weights, offsets, live, explained = axes
    channels, width = offsets.shape
    flat = components.reshape(components.shape[0], channels * width)
    centre, unit = grid_of(means)
    return LayerPlan(
        name=name,
        shape=shape,
        channels=channels,
        weights=weights,
        offsets=offsets,
        knots=basis.choose_knots(flat, knots, tails).reshape(channels, width, knots),
        spread=robust_spread(flat).reshape(channels, width),
        live=live,
        explained=explained,
        mean_centre=centre,
        mean_unit=unit,
    )


class NoiseMaker(Protocol):
    """Estimates what another pilot would change, layer by layer (plan_noise/half_samples.py)."""

    def add(self, layer: LayerPlan, targets: Sequence[TargetPlan], components: Tensor) -> None:
        """Takes a layer's plan and the pilot's rows on its axes and the next: float32 (n, C, w), w > p."""

    def finish(self) -> PlanNoise | None: ...


def build_plan(
    passes: Passes,
    shapes: Mapping[str, tuple[int, ...]],
    targets: Mapping[str, npt.NDArray[np.float64]],
    *,
    components: int,
    knots: int,
    tails: float = 0.0,
    folds: int,
    scale: str,
    facts: Mapping[str, JSON],
    needs: Needs | None = None,
    noise: NoiseMaker | None = None,
) -> Plan:
    """The plan of a run from its pilot.

    passes: each call gives a fresh pass over the pilot, in the same order: per batch the maps (B, C, D) of
    every layer.
    shapes: map shape of each layer, in model order. targets: float64 (n,) of each target, in the job's order.
    needs: told the layers that the following passes must give; all of them before it is told. The same input gives the
    same plan. noise: makes the plan's noise, from the rows in the order of the passes.
    """
    if not 1 <= components <= pca.MAX_COMPONENTS:
        raise StatisticsError(f"statistics.components: {components} is not between 1 and {pca.MAX_COMPONENTS}")
    target_plans = tuple(make_target_plan(name, values, knots, tails) for name, values in targets.items())
    spectra = _find_axes(passes, components, scale, needs)
    if needs is not None:
        needs(list(spectra))
    further = 0 if noise is None else pca.OVERSAMPLING
    parts, rows = _project_pilot(passes, spectra, components, further)
    layers = []
    # layer by layer: with all layers of a large network the components of the pilot take a gigabyte
    for name, shape in shapes.items():
        own, means = (torch.cat(batches) for batches in zip(*parts.pop(name), strict=True))
        axes = _on_cpu(spectra.pop(name).axes(0, components))
        layers.append(make_layer_plan(name, shape, axes, own[:, :, :components].contiguous(), means, knots, tails))
        if noise is not None:
            noise.add(layers[-1], target_plans, own)
    return Plan(
        layers=tuple(layers),
        targets=target_plans,
        components=components,
        knots=knots,
        folds=folds,
        scale=scale,
        pilot_rows=rows,
        facts=facts,
        noise=None if noise is None else noise.finish(),
        tails=tails,
    )


def _find_axes(passes: Passes, components: int, scale: str, needs: Needs | None) -> dict[str, pca.Spectrum]:
    """Passes over the pilot until the axes of every layer are settled."""
    finders: dict[str, pca.AxesFinder] = {}
    while not finders or not all(finder.done for finder in finders.values()):
        if finders and needs is not None:
            needs([name for name, finder in finders.items() if not finder.done])
        for batch in passes():
            finders = finders or pca.choose_finders(batch, components, scale)
            for name, finder in finders.items():
                if not finder.done:
                    finder.update(_finite(name, batch[name]))
        if not finders:
            raise StatisticsError("the pilot has no rows; the plan needs at least one")
        for finder in finders.values():
            if not finder.done:
                finder.end_pass()
    return {name: finder.spectrum() for name, finder in finders.items()}


def _finite(name: str, maps: Tensor) -> Tensor:
    """The maps as they are. Extremes show what is not finite, ten times as fast as a mask of all values."""
    if maps.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(maps))).all()):
        raise StatisticsError(f"layer {name}: the pilot's maps hold NaN or infinite values")
    return maps


Projected: TypeAlias = list[tuple[Tensor, Tensor]]


def _project_pilot(
    passes: Passes, spectra: Mapping[str, pca.Spectrum], components: int, further: int
) -> tuple[dict[str, Projected], int]:
    """Components (n, C, p + further) and means (n, C) of every batch of the pilot for every layer, and the number of
    rows. The further axes are projected on apart: they change no bit of the others."""
    probes = {name: _probe(name, own.axes(0, components)) for name, own in spectra.items()}
    more = {name: _probe(name, own.axes(components, further)) for name, own in spectra.items()} if further else {}
    parts: dict[str, Projected] = {name: [] for name in spectra}
    for batch in passes():
        for name, probe in probes.items():
            own, means = probe.project(batch[name])
            beyond = [more[name].project(batch[name])[0].cpu()] if more else []
            parts[name].append((torch.cat([own.cpu(), *beyond], dim=2), means.cpu()))
    return parts, sum(int(means.shape[0]) for _, means in next(iter(parts.values())))


def _on_cpu(axes: pca.Axes) -> pca.Axes:
    weights, offsets, live, explained = (tensor.cpu() for tensor in axes)
    return weights, offsets, live, explained


def _probe(name: str, axes: pca.Axes) -> LayerPlan:
    """A layer plan that can only project."""
    weights, offsets, live, explained = axes
    nothing = torch.empty(0)
    return LayerPlan(
        name, (), int(weights.shape[0]), weights, offsets, nothing, nothing, live, explained, nothing, nothing
    )
