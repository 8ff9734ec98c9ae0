"""`pcace explain`: what the model says of one image, which ranked channels fired on it, and what each contributed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa
import torch

from pcace_dist.artifacts.run import Run
from pcace_dist.commands.explain.channels import ChannelNumbers
from pcace_dist.commands.explain.explained import Explained, Output
from pcace_dist.commands.explain.image import NO_LABEL, GivenImage, read_image
from pcace_dist.commands.explain.image_pass import ImagePass, LayerPass
from pcace_dist.config.choice import Wanted, choose
from pcace_dist.config.targets import have_classes
from pcace_dist.datasets.decoding.thumbnail import data_url, thumbnail
from pcace_dist.errors import JobError, OutputError
from pcace_dist.reporting.sight.tokens import NO_TOKENS, TokenLayer, token_layers
from pcace_dist.reporting.source import ReportSource, open_report_source

Step: TypeAlias = Callable[[str], None]

TOP = 20
OUTPUTS = 5  # that are shown
SIDE = 224  # pixels of the longer side of a picture
NAMED = 5


@dataclass(frozen=True)
class ExplainSettings:
    """target, group, layers: of the ranking, as `--target`, `--group` and `--layer` have them (None: the first target,
    the image's own group, all layers). label: the class of an image that has none. top: channels that are told of."""

    target: Wanted = None
    group: Wanted = None
    layers: tuple[str, ...] | None = None
    label: str | None = None
    top: int = TOP


def explain(run: Run, image: str, settings: ExplainSettings, step: Step = lambda name: None) -> Explained:
    """Explain an image: a file (local, s3://) or a row of the run's data by its id. step: told what is done next.

    Raises UserError for an image that cannot be read or does not fit, a choice that nothing has, weights that are not
    the ones ranked.
    """
    step("reading the run")
    source = open_report_source(run.path, layers=settings.layers)
    _refuse_without_origin(source)
    target = _one("target", settings.target, source.ranking.targets, source.ranking.names.target_names, run.path) or 0
    given = read_image(source, image)
    step("loading the model")
    model = source.load_model()
    layers = tuple(name for name, _ in source.ranking.layers)
    step("the model's passes")
    own = ImagePass(source, model, given.pixels[None], target, layers)
    explanation = _Explanation(source, own, given, settings)
    explanation.choose_label()
    group = explanation.group()
    passes = own.run(given.group if given.row is not None else source.ranking.groups[group])
    step("the channels")
    return explanation.explained(group, passes, tokens_of(source, model, layers))


def tokens_of(source: ReportSource, model: torch.nn.Module, layers: Iterable[str]) -> dict[str, TokenLayer]:
    """How the tokens of these layers lie on the image."""
    shapes = {name: source.plan.layer(name).shape for name in layers}
    return token_layers(model, shapes, (source.origin.job.model.input.image_channels, *source.image_shape))


def _refuse_without_origin(source: ReportSource) -> None:
    """Raise OutputError for a run from kept codes where the run that read the images is gone."""
    codes = source.summary.get("from_codes")
    if codes is not None and source.origin.run.path == source.run.path:
        raise OutputError(
            f"{source.run.path}: was ranked from the codes of {codes}, which is gone or elsewhere; its images and its "
            "model are those of that run"
        )


def _one(
    kind: str, wanted: Wanted, values: Sequence[Any], names: Callable[[Any], Iterable[str]], where: str
) -> int | None:
    """The number of the one value that is wanted; None where nothing is."""
    if wanted is None:
        return None
    chosen = choose(kind, wanted, values, names, where=where)
    if len(chosen) > 1:
        raise JobError(f"--{kind} {wanted}: are {len(chosen)} {kind}s; choose one")
    return values.index(chosen[0])


class _Explanation:
    """Puts one explanation together."""

    def __init__(self, source: ReportSource, own: ImagePass, given: GivenImage, settings: ExplainSettings) -> None:
        self._source, self._pass, self._given, self._settings = source, own, given, settings
        self._names = source.ranking.names
        self._notes: list[str] = []
        if not source.is_of_todays_code(own.model):
            self._notes.append(f"the code of {source.origin.job.model.factory} has changed since this run was ranked")

    # -- which class, which ranking

    def choose_label(self) -> None:
        """The image's class: its own, the one that was given, else the predicted one."""
        own, outputs = self._pass, self._pass.outputs.shape[1]
        own.label = self._given.label
        if self._settings.label is not None:
            called = {index: (self._names.label(index), *self._called(index)) for index in range(outputs)}
            own.label = _one("label", self._settings.label, list(called), called.__getitem__, "--label") or 0
        needs = (own.spec is not None and own.spec.needs_label) or own.kind == "label" or self._is_by_label
        if own.label == NO_LABEL and needs:
            own.label = int(own.outputs[0].argmax())
            shown = self._names.label(own.label)
            self._notes.append(f"without a label the image is taken as what the model says, {shown}; see --label")

    def _called(self, index: int) -> list[str]:
        name = self._names.names.get(index)
        return [str(index + self._names.base), *([] if name is None else [name])]

    @property
    def _is_by_label(self) -> bool:
        """Whether there is a ranking for each class."""
        job = self._source.job
        return job.group_by is not None and job.group_by == job.dataset.label

    def group(self) -> int:
        """The number of the ranking: of the group that was asked for, or of the image's own."""
        source, groups = self._source, self._source.ranking.groups
        chosen = _one("group", self._settings.group, groups, self._names.group_names, source.run.path)
        if chosen is not None or len(groups) == 1:
            return chosen or 0
        if self._is_by_label:
            labels = pa.chunked_array([pa.array(groups)])
            indices: list[int] = source.dataset.labelling.indices(labels)[0].tolist()
            if self._pass.label in indices:
                return indices.index(self._pass.label)
        elif self._given.group in groups and source.job.group_by == source.dataset.group_by:
            return groups.index(self._given.group)
        shown = ", ".join(self._names.group(group) for group in groups[:NAMED])
        more = f" and {len(groups) - NAMED:,} more" if len(groups) > NAMED else ""
        raise JobError(
            f"--group: the run has a ranking for each {source.job.group_by}, and this image's is not known; write "
            f"--group with one of {shown}{more}"
        )

    # -- the result

    def explained(self, group: int, passes: Mapping[str, LayerPass], tokens: Mapping[str, TokenLayer]) -> Explained:
        source, own, given = self._source, self._pass, self._given
        numbers = ChannelNumbers(source, own, group, passes)
        if not numbers.has_parts:
            self._notes.append(f"what each channel adds is not known: {self._why_no_parts()}; shown is what it tells")
        if source.sample is None:
            self._notes.append("the run keeps no sample: no percentiles, and nothing of what channels tell")
        shown = source.run.shows_images and source.origin.run.shows_images
        if not shown:
            self._notes.append(f"no pictures: {source.run.path} was ranked with `shown: none`")
        keys = numbers.best(self._settings.top)
        grouped = source.job.group_by is not None
        return Explained(
            run=source.run.path,
            image=given.name,
            row=given.row,
            label=None if own.label == NO_LABEL else self._names.label(own.label),
            target=source.ranking.targets[own.target],
            group=self._names.group(source.ranking.groups[group]) if grouped else None,
            watched=None if own.spec is None else own.spec.name,
            value=None if own.spec is None else float(own.values(own.outputs)[0]),
            outputs=self._outputs(),
            layers=tuple(numbers.sums()),
            channels=tuple(numbers.part(key, tokens.get(key[0], NO_TOKENS), shown) for key in keys),
            notes=tuple(self._notes),
            picture=data_url(thumbnail(given.pixels, SIDE)) if shown else None,
        )

    def _why_no_parts(self) -> str:
        effects, name = self._source.plan.effects, self._source.ranking.targets[self._pass.target]
        if effects is None:
            return "the run has no effects (effect in the job)"
        if effects.index(name) is None:
            return f"effect_status of {name} is {effects.statuses.get(name, 'off')}"
        if self._pass.spec is None:
            return f"{name} is of an embedding"
        return f"the run has no axis for the {self._pass.kind} of this image"

    def _outputs(self) -> tuple[Output, ...]:
        values = self._pass.outputs[0]
        classes = len(values) > 1 and have_classes(self._source.targets)
        shares = _probabilities(values) if classes else None
        order = values.argsort(descending=True, stable=True) if classes else torch.arange(len(values))
        return tuple(
            Output(
                index,
                self._names.output(index) if classes else str(index),
                float(values[index]),
                None if shares is None else float(shares[index]),
            )
            for index in order[:OUTPUTS].tolist()
        )


def _probabilities(values: torch.Tensor) -> torch.Tensor:
    """Of classes: the outputs where they are some, else their softmax."""
    are_some = bool((values >= 0).all()) and abs(float(values.sum()) - 1) < 1e-3
    return values if are_some else values.softmax(0)
