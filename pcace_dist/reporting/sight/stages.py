"""What a channel sees, stage by stage: the part of an image that its strongest position sees, which pixels there excite
it, and images drawn to excite it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pcace_dist.artifacts.reading.rows import fetch
from pcace_dist.datasets.sections import TENSOR
from pcace_dist.models.inputs import Normalise
from pcace_dist.models.receptive_fields import receptive_fields
from pcace_dist.reporting import pictures
from pcace_dist.reporting.findings import ChannelKey, Findings
from pcace_dist.reporting.options import ReportOptions
from pcace_dist.reporting.progress import ReportProgress
from pcace_dist.reporting.selection import PageSelection
from pcace_dist.reporting.sight.attribution import attributions
from pcace_dist.reporting.sight.synthesis import SIDES, Canvas, excite
from pcace_dist.reporting.sight.tokens import NO_TOKENS
from pcace_dist.reporting.source import ReportSource

DRAWN_AT_ONCE = {"cpu": 16, "cuda": 32}
ATTRIBUTED = 4  # exemplars of a channel whose pixels are attributed


def find_fields(source: ReportSource, model: nn.Module, findings: Findings, progress: ReportProgress) -> None:
    """What the strongest positions of all shown images see. Layers that see everything, or have no gradient, have
    none."""
    positions: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for (layer, _), by_row in findings.probed.strongest.items():
        positions[layer] |= set(by_row.values())
    progress.stage("receptive fields", len(positions))
    for layer, wanted in positions.items():
        tokens, shape = findings.tokens.get(layer, NO_TOKENS), source.plan.layer(layer).shape
        grid = tokens.grid(shape)
        assert grid is not None
        try:
            fields = receptive_fields(model, layer, source.input_shape, grid, wanted, before=len(tokens.apart))
        except RuntimeError:  # no gradient: under torch.no_grad, or a reentrant checkpoint
            fields = None
        if fields is not None:
            findings.fields[layer] = fields
        progress.step()


def attribute(
    source: ReportSource,
    model: nn.Module,
    device: torch.device,
    batch: int,
    findings: Findings,
    progress: ReportProgress,
) -> None:
    """The pixels that excite each channel in its first exemplars, as pictures of what its strongest position sees."""
    settings = source.origin.job.model.input
    normalise = Normalise(tuple(settings.mean), tuple(settings.std), device)
    wanted: dict[int, list[ChannelKey]] = defaultdict(list)
    for key, rows in findings.exemplars.items():
        for number, _ in rows[:ATTRIBUTED]:
            if number in findings.probed.strongest[key]:
                wanted[number].append(key)
    progress.stage("which pixels excite the channels", sum(map(len, wanted.values())))
    numbers = list(wanted)
    for fetched in fetch(source, [findings.pool.refs[number] for number in numbers], batch):
        by_layer: dict[str, list[tuple[int, int, Tensor]]] = defaultdict(list)
        for index, image in zip(fetched.numbers, fetched.images, strict=True):
            for layer, channel in wanted[numbers[index]]:
                by_layer[layer].append((channel, numbers[index], image))
        for layer, entries in by_layer.items():
            for some in _parts(entries, batch):
                try:
                    _attribute(source, model, layer, some, normalise, findings)
                except RuntimeError:  # no gradient
                    continue
                progress.step(len(some))


def _attribute(
    source: ReportSource,
    model: nn.Module,
    layer: str,
    entries: Sequence[tuple[int, int, Tensor]],
    normalise: Normalise,
    findings: Findings,
) -> None:
    """entries: of one layer, each a channel, the number of a row and its image."""
    tokens, shape = findings.tokens.get(layer, NO_TOKENS), source.plan.layer(layer).shape
    grid = tokens.grid(shape)
    assert grid is not None
    device = normalise.mean.device
    places = [findings.probed.strongest[layer, channel][number] for channel, number, _ in entries]
    positions = torch.tensor([len(tokens.apart) + row * grid[1] + column for row, column in places], device=device)
    channels = torch.tensor([channel for channel, _, _ in entries], device=device)
    inputs = normalise(torch.stack([image for _, _, image in entries]).to(device))
    found = attributions(model, layer, inputs, channels, positions)
    for (channel, number, _), place, values in zip(entries, places, found, strict=True):
        fields = findings.fields.get(layer)
        if fields is not None:
            (top, bottom), (left, right) = fields.rows[place[0]], fields.columns[place[1]]
            values = values[top:bottom, left:right]
        picture = pictures.shrink_map(torch.from_numpy(np.ascontiguousarray(values)), values.shape)
        if picture is not None and picture.max() > 0:
            findings.attributions[layer, channel][number] = pictures.heat_png(picture, 0.0, float(picture.max()))


def _parts(entries: Sequence[tuple[int, int, Tensor]], size: int) -> Iterator[Sequence[tuple[int, int, Tensor]]]:
    yield from (entries[start : start + size] for start in range(0, len(entries), size))


def _canvas_side(findings: Findings, layer: str) -> int:
    """The longer side of a synthetic image: what a position of the layer sees, within bounds."""
    fields = findings.fields.get(layer)
    if fields is None:
        return SIDES[1]
    seen = max(last - first for first, last in (*fields.rows.values(), *fields.columns.values()))
    return min(SIDES[1], max(SIDES[0], seen))


def draw(
    source: ReportSource,
    model: nn.Module,
    device: torch.device,
    selection: PageSelection,
    findings: Findings,
    options: ReportOptions,
    progress: ReportProgress,
) -> None:
    """Compute synthetic images, for some channels of a layer at a time."""
    settings = source.origin.job.model.input
    if settings.mode == TENSOR:
        findings.notes.append("no images that excite the channels: for tensors it is not known which values are usual")
        return
    progress.stage("images that excite the channels", len(selection.channels))
    at_once = DRAWN_AT_ONCE[device.type]
    for layer, channels in selection.pages.items():
        canvas = Canvas(tuple(settings.mean), tuple(settings.std), source.image_shape, _canvas_side(findings, layer))
        units = source.plan.layer(layer).mean_unit.double() * 1024  # a sixteenth of the grid: about one deviation
        for start in range(0, len(channels), at_once):
            drawn_channels = channels[start : start + at_once]
            drawn = excite(
                model,
                layer,
                drawn_channels,
                canvas,
                device=device,
                seed=options.seed,
                steps=options.steps,
                units=[float(units[channel]) for channel in drawn_channels],
            )
            findings.synthetic.update(
                {(layer, channel): image for channel, image in zip(drawn_channels, drawn, strict=True)}
            )
            progress.step(len(drawn_channels))
