"""Which targets have effects, by which gradient, and by what their axes go: as far as the job and its listing tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pcace_dist.config.sections import Effect
from pcace_dist.config.targets import PREDICTED, TargetSpec
from pcace_dist.statistics.effects.plan import Kind
from pcace_dist.statistics.effects.scores import NO_GRADIENT, NOT_OF_THE_MODEL, OFF

AUTO, MEAN, IMAGE, PATH = "auto", "mean", "image", "path"
MORE = 4  # times statistics.pilot: auto takes at most so many backward passes
MOST_TARGETS = 16  # with auto
BACKWARD = "it takes a backward pass for every image, about three times the time; effect.gradient: image takes it"


@dataclass(frozen=True)
class Watched:
    """A target with effects: its name, the function of the model whose effects they are, what its axes go by."""

    name: str
    of: TargetSpec
    kind: Kind


@dataclass(frozen=True)
class EffectChoice:
    """gradient: mean, image, path or off. statuses: of the targets without effects. reason: why auto left some out."""

    gradient: str
    watched: tuple[Watched, ...] = ()
    statuses: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None

    @property
    def of_images(self) -> bool:
        """Whether every image has a gradient of its own."""
        return self.gradient in (IMAGE, PATH)


def choose_effects(
    effect: Effect, targets: Sequence[TargetSpec], *, group_by: str | None, rows: int, pilot: int
) -> EffectChoice:
    """What `effect` means for these targets. rows: of the data set; pilot: statistics.pilot."""
    statuses: dict[str, str] = {}
    watched: list[Watched] = []
    for target in targets:
        of = target if target.of_outputs else effect.watched
        if of is None or not of.of_outputs:
            statuses[target.name] = NOT_OF_THE_MODEL
        elif not of.differentiable:
            statuses[target.name] = NO_GRADIENT
        else:
            watched.append(Watched(target.name, of, _kind(of, group_by)))
    if effect.gradient == AUTO:
        return _automatic(watched, statuses, small=rows <= MORE * pilot)
    if effect.gradient == OFF:
        return EffectChoice(OFF, (), statuses | {own.name: OFF for own in watched})
    if effect.gradient in (IMAGE, PATH):
        watched = [replace(own, kind="one") for own in watched]
    return EffectChoice(effect.gradient, tuple(watched), statuses)


def has_mean(of: TargetSpec) -> bool:
    """Whether gradients of images of a class or group can be averaged: not where the function is another for each."""
    return of.value != PREDICTED and of.vectors is None


def _kind(of: TargetSpec, group_by: str | None) -> Kind:
    if of.needs_label:
        return "label"
    return "one" if group_by is None else "group"


def _automatic(watched: Sequence[Watched], statuses: Mapping[str, str], *, small: bool) -> EffectChoice:
    """mean where gradients have a mean to take; else image, where the data set is small."""
    every = {own.name: OFF for own in watched}
    if len(watched) > MOST_TARGETS:
        many = f"{len(watched)} targets are more than {MOST_TARGETS}; effect.gradient: mean computes them all"
        return EffectChoice(OFF, (), {**statuses, **every}, many)
    with_mean = [own for own in watched if has_mean(own.of)]
    without = {own.name: OFF for own in watched if not has_mean(own.of)}
    reason = f"{', '.join(without)}: {BACKWARD}" if without else None
    if with_mean or not watched:
        return EffectChoice(MEAN, tuple(with_mean), {**statuses, **without}, reason)
    if small:
        return EffectChoice(IMAGE, tuple(replace(own, kind="one") for own in watched), statuses)
    return EffectChoice(OFF, (), {**statuses, **every}, reason)
