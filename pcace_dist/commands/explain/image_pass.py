"""One image through the run's model: codes and maps of every layer, and what each channel contributes to the target.

    l_c  =  < g_c , a_c - mean a_c >       docs/method.md, section 7

g is the axis of the image's label or group where the run's effects go by mean gradients, else the image's own gradient.
Everything is as in the run (weights, precision, places) but for the batch, which holds this image alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from pcace_dist.artifacts.plan_metadata import PlanMetadata
from pcace_dist.config.targets import PREDICTED, TargetSpec, parse_name
from pcace_dist.datasets.groups import name_of
from pcace_dist.models.effects.places import Place, tap_name
from pcace_dist.models.forward import Forward
from pcace_dist.models.targets import target_tensor
from pcace_dist.reporting.source import ReportSource
from pcace_dist.statistics.effects.plan import LayerEffects
from pcace_dist.statistics.effects.positions import spread
from pcace_dist.statistics.plan import LayerCodes

EMBEDDING = "cosine"  # targets whose vectors are not read here


@dataclass(frozen=True, eq=False)
class LayerPass:
    """A layer of C channels. codes: of one row. maps: float32 (C, D). parts: float64 (C, D'), of what each channel
    contributes by position of its place, whose shape is `parts_shape`; None where nothing is known of it."""

    codes: LayerCodes
    maps: Tensor
    parts: Tensor | None = None
    parts_shape: tuple[int, ...] = ()

    @property
    def contributions(self) -> Tensor | None:
        """l, float64 (C,)."""
        return None if self.parts is None else self.parts.sum(1)


@dataclass(eq=False)
class ImagePass:
    """The passes of one image. images: a batch of one, as it is decoded. target: its number among the job's."""

    source: ReportSource
    model: nn.Module
    images: Tensor
    target: int
    layers: tuple[str, ...]
    outputs: Tensor = field(init=False)
    spec: TargetSpec | None = field(init=False)
    label: int = -1

    def __post_init__(self) -> None:
        plan, metadata = self.source.plan, PlanMetadata.of(self.source.plan)
        name = self.source.ranking.targets[self.target]
        self._effects = plan.effects
        self._index = None if plan.effects is None else plan.effects.index(name)
        self.spec = self._watched(name)
        settings = self.source.origin.job.model.input
        self._forward = Forward(
            self.model,
            "cpu",
            1,
            tuple(settings.mean),
            tuple(settings.std),
            self.layers,
            metadata.numerics,
            self.places,
        )
        self.outputs = self._forward(self.images).double()

    def _watched(self, name: str) -> TargetSpec | None:
        """The function of the model whose effects are taken: the target, or what the job names for a column."""
        known = {spec.name: spec for spec in self.source.targets}
        if self._effects is not None and self._index is not None:
            of = self._effects.targets[self._index].of
            spec = known.get(of) or parse_name(of)
        else:
            spec = known[name]
        return spec if spec.of_outputs and spec.kind != EMBEDDING else None

    @property
    def places(self) -> Mapping[str, Place]:
        """Where effects are taken from, by layer; empty where the target has none."""
        if self._effects is None or self._index is None or self.spec is None:
            return {}
        return {name: Place.from_json(own) for name, own in self._effects.places.items() if name in self.layers}

    @property
    def kind(self) -> str | None:
        """What the axes go by: one, label or group; None without effects."""
        return self._effects.targets[self._index].kind if self._effects and self._index is not None else None

    def values(self, outputs: Tensor) -> Tensor:
        """The target's values (B,) of outputs, for this image's label. The predicted class is that of this image, also
        where something else is predicted."""
        assert self.spec is not None
        spec, label = self.spec, self.label
        if spec.value == PREDICTED:
            spec = replace(spec, value=int(self.outputs[0].argmax()))
        return target_tensor(spec, outputs, np.full(len(outputs), label, np.int64))

    def run(self, group: Any) -> dict[str, LayerPass]:
        """All layers. group: the image's, by whose axis it goes where axes go by groups."""
        found: dict[str, LayerPass] = {}
        blocks: dict[str, Tensor] = {}

        def receive(name: str, maps: Tensor, _: tuple[int, ...]) -> None:
            if name not in self.layers:
                blocks[name] = maps[0].double()
                return
            layer = self.source.plan.layer(name)
            found[name] = LayerPass(layer.encode(*layer.project(maps)), maps[0].float().clone())

        if self.places and self._effects is not None and self._effects.of_images:
            parts = self._by_own_gradients(receive)
        else:
            self._forward(self.images, receive)
            parts = self._by_axes(blocks, group)
        return {name: self._with_parts(name, found[name], parts) for name in self.layers}

    def _with_parts(self, name: str, own: LayerPass, parts: Mapping[str, Tensor]) -> LayerPass:
        if name not in parts:
            return own
        return replace(own, parts=parts[name], parts_shape=self._layer_effects(name).shape)

    def _by_axes(self, blocks: Mapping[str, Tensor], group: Any) -> dict[str, Tensor]:
        if self._effects is None or self._index is None:
            return {}
        target = self._effects.targets[self._index]
        axis = int(target.axes_of(np.array([self.label]), [name_of(group)], 1)[0])
        if axis < 0:
            return {}
        parts = {}
        for name in self.places:
            layer = self._layer_effects(name)
            parts[name] = layer.axes[axis].double() * (blocks[tap_name(name)] - layer.mean_maps.double())
        return parts

    def _by_own_gradients(self, receive: Any) -> dict[str, Tensor]:
        assert self._effects is not None
        means = {name: self._layer_effects(name).mean_of_positions for name in self.places}
        path = means if self._effects.gradient == "path" else None
        _, maps, (found,) = self._forward.with_gradients(self.images, receive, [self.values], path)
        return {
            name: gradient[0].double() * (maps[name][0].double() - means[name].double())
            for name, gradient in found.items()
            if gradient is not None
        }

    def without(self, layer: str, channels: Sequence[int]) -> float:
        """How much lower the target is with the mean maps of these channels in their place."""
        mean = self._layer_effects(layer).mean_of_positions
        outputs = self._forward.without(self.images, layer, channels, mean).double()
        return float(self.values(self.outputs)[0] - self.values(outputs)[0])

    def _layer_effects(self, name: str) -> LayerEffects:
        assert self._effects is not None
        return self._effects.layer(name)


def at_positions(own: LayerPass, channel: int) -> Tensor:
    """What a channel contributes at each position of its place, (D,); of a block, at each of its positions."""
    assert own.parts is not None
    parts = own.parts[channel : channel + 1]
    return parts[0] if parts.shape[1] == int(np.prod(own.parts_shape)) else spread(parts, own.parts_shape)[0]
