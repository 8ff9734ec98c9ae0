"""A report from beginning to end: read the run, choose, fetch, probe, draw, write. Knows all the parts."""

from __future__ import annotations

import contextlib
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pcace_dist.errors import DatasetError, JobError, ModelError, PcaceError, require_packages
from pcace_dist.models.inputs import Normalise
from pcace_dist.report import cam, content, pictures
from pcace_dist.report.comparison import compare
from pcace_dist.report.evidence import Transforms, extreme_rows, growth, summed
from pcace_dist.report.findings import Findings
from pcace_dist.report.geography import read_places
from pcace_dist.report.options import ReportOptions
from pcace_dist.report.page import render
from pcace_dist.report.probe import Probe
from pcace_dist.report.progress import ReportProgress
from pcace_dist.report.rows import Ref, fetch
from pcace_dist.report.selection import Selection, select
from pcace_dist.report.source import Sample, Source, open_source
from pcace_dist.report.synthesis import Canvas, excite

EXEMPLARS = 8  # images of a channel
EXTREMES = 4  # images at either end of its transform
MOST_EXTREMES = 1200  # channels x targets x groups that get such images
CAM_IMAGES = 24
CAM_CHANNELS = 10
GEOGRAPHY_ROWS = 512  # that are forwarded for predictions
SMALL_IMAGE = 64  # pixels of the longer side
BATCH = {"cpu": 16, "cuda": 128}
DRAWN_AT_ONCE = {"cpu": 8, "cuda": 32}


@dataclass(frozen=True)
class ReportResult:
    """Where the page went, its size, how many channels have pictures, seconds by stage, what had to be left out."""

    path: str
    size: int
    channels: int
    images: int
    seconds: dict[str, float]
    notes: tuple[str, ...]


def build_report(run: str, options: ReportOptions, *, progress: ReportProgress | None = None) -> ReportResult:
    """Write the report of a finished run. Raises UserError for what is wrong with the run or the options,
    and NotInstalled, before anything is computed, without the extra `report`.

    Images that can no longer be read (the data set moved or changed) leave a page without pictures, and a note.
    """
    require_packages("pcace report", "report", "captum", "jinja2", "plotly")
    with progress or ReportProgress() as shown:
        return _build(run, options, shown)


def _build(run: str, options: ReportOptions, shown: ReportProgress) -> ReportResult:
    device = choose_device(options.device)
    shown.stage("reading the run")
    source = open_source(run, layers=options.layers)
    selection = select(source.ranking, options)
    found = Findings()
    if selection.left_out:
        found.notes.append(
            f"{selection.left_out:,} of {len(source.ranking.groups):,} groups did not fit on one page: the largest are "
            "shown; --groups chooses others"
        )
    if options.against is not None:
        found.against = compare(source, open_source(options.against, layers=options.layers), selection.groups)
    transforms = _choose_rows(source, selection, found)
    with one_thread_for(source.image_shape):
        _grow(source, selection, found, shown)
    with quiet_backends(), one_thread_for(source.image_shape), _images(source, found) as there:
        if there:
            shown.stage("loading the model")
            model = prepared(source.load_model(device))
            if not source.is_of_todays_code(model):
                found.notes.append(
                    f"the code of {source.job.model.factory} has changed since this run was ranked: pictures, maps and "
                    "class evidence are those of the model as it is now, the ranking is not"
                )
            _look(source, model, device, found, shown)
            _evidence(source, model, device, found, shown)
            _where(source, model, device, found, shown)
            if options.synthesis:
                _draw(source, model, device, selection, found, options, shown)
    shown.stage("writing the page")
    page = content.page(source, selection, found, transforms)
    data = render(page)
    path = options.output or f"{source.run.path}/report.html"
    source.storage.put_bytes(data, path)
    return ReportResult(
        path, len(data), len(selection.channels), len(found.thumbnails), shown.seconds, tuple(found.notes)
    )


def choose_device(name: str) -> torch.device:
    """cpu, cuda or auto. Raises JobError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise JobError(f"--device {name}: this machine has no GPU; use --device cpu")
    if name != "cpu" and not name.startswith("cuda"):
        raise JobError(f"--device {name!r}: is not cpu, cuda or auto")
    return torch.device(name)


def prepared(model: nn.Module) -> nn.Module:
    """The model without work in place: maps are looked at after the pass."""
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return model


@contextlib.contextmanager
def quiet_backends() -> Iterator[None]:
    """Deterministic where it can be, and no warnings of libraries on the user's screen."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextlib.contextmanager
def one_thread_for(shape: tuple[int, int]) -> Iterator[None]:
    """One thread for small images: on a busy machine threads wait for each other longer than they work."""
    before = torch.get_num_threads()
    if max(shape) <= SMALL_IMAGE:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _images(source: Source, found: Findings) -> Iterator[bool]:
    """Whether images can be had; what goes wrong with them becomes a note, not the end of the report."""
    if not len(found.pool):
        found.notes.append(
            "this run keeps no exemplars (it was ranked from kept codes, or made by an earlier version): there are no "
            "pictures"
        )
        yield False
        return
    try:
        source.listing  # noqa: B018  (fails here where the data set is gone)
    except DatasetError as error:
        found.notes.append(f"no pictures: {error}")
        yield False
        return
    yield True


# -- which rows


def _choose_rows(source: Source, selection: Selection, found: Findings) -> Transforms | None:
    """Fill the pool: exemplars, extremes of the transforms, rows for the class evidence."""
    if source.exemplars is not None:
        _choose_exemplars(source, selection, found)
    if source.transforms is None or source.sample is None:
        return None
    transforms = Transforms(source.transforms, source.ranking, source.plan.components)
    _choose_extremes(source, source.sample, selection, transforms, found)
    _choose_cam_rows(source.sample, selection, found)
    return transforms


def _choose_exemplars(source: Source, selection: Selection, found: Findings) -> None:
    assert source.exemplars is not None
    wanted = set(selection.channels)
    columns = [source.exemplars[name].to_pylist() for name in source.exemplars.column_names]
    for layer, channel, place, file, row_group, row, value in zip(*columns, strict=True):
        if place < EXEMPLARS and (layer, channel) in wanted:
            number = found.pool.add((file, row_group, row))
            found.exemplars.setdefault((layer, channel), []).append((number, value))


def _choose_extremes(
    source: Source, sample: Sample, selection: Selection, transforms: Transforms, found: Findings
) -> None:
    """For every target and group while that stays within MOST_EXTREMES, else for each channel's best group alone."""
    ranking = source.ranking
    blocks = [(t, g) for t in range(len(ranking.targets)) for g in selection.groups]
    ranks = {block: ranking.numbers(*block, "rank") for block in blocks}
    every = len(blocks) * len(selection.channels) <= MOST_EXTREMES
    for layer, channels in selection.pages.items():
        codes = sample.codes(layer, source.plan.components)
        start = ranking.start(layer)
        for channel in channels:
            best = min(blocks, key=lambda b: (np.nan_to_num(ranks[b][start + channel], nan=np.inf), b))
            for block in blocks if every else [best]:
                transform = transforms.get(*block, layer, channel)
                rows = np.flatnonzero(sample.group == block[1]).astype(np.int64)
                if transform is None or not len(rows):
                    continue
                own = codes[:, channel]
                values = summed(own, transform)
                ends = extreme_rows(own, transform, rows, min(EXTREMES, len(rows) // 2))
                found.extremes[(layer, channel), block] = tuple(  # type: ignore[assignment]
                    [(found.pool.add(ref), float(values[row])) for ref, row in zip(sample.refs(end), end, strict=True)]
                    for end in ends
                )


def _choose_cam_rows(sample: Sample, selection: Selection, found: Findings) -> None:
    """A few rows of each group, spread over the values of the first target."""
    each = max(1, CAM_IMAGES // len(selection.groups))
    for group in selection.groups[:CAM_IMAGES]:
        rows = np.flatnonzero(sample.group == group).astype(np.int64)
        if not len(rows):
            continue
        order = rows[np.argsort(sample.targets[rows, 0], kind="stable")]
        quantiles = np.unique(((np.arange(each) + 0.5) / each * len(order)).astype(np.int64))
        refs: list[Ref] = sample.refs(order[quantiles])
        found.cam_rows[group] = [found.pool.add(ref) for ref in refs]


def _grow(source: Source, selection: Selection, found: Findings, shown: ReportProgress) -> None:
    if source.sample is None:
        return
    shown.stage("scores by number of images", len(selection.pages) * len(selection.groups))
    for layer, channels in selection.pages.items():
        by_group = {}
        for group in selection.groups:
            by_group[group] = growth(source, source.plan.layer(layer), np.array(channels, np.int64), group)
            shown.step()
        found.growth[layer] = by_group


# -- with the model


def _look(source: Source, model: nn.Module, device: torch.device, found: Findings, shown: ReportProgress) -> None:
    """Fetch the pool's rows once: thumbnails, maps and outputs."""
    wanted: dict[int, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for (layer, channel), rows in found.exemplars.items():
        for number, _ in rows:
            wanted[number][layer].add(channel)
    for ((layer, channel), _), ends in found.extremes.items():
        for number, _ in (*ends[0], *ends[1]):
            wanted[number][layer].add(channel)
    plain = {n: {layer: tuple(sorted(c)) for layer, c in by.items()} for n, by in wanted.items()}
    shown.stage("images and their activation maps", len(found.pool))
    side = pictures.thumbnail_side(len(found.pool), source.image_shape)
    batch = BATCH[device.type]
    probe = Probe(source, model, device, batch, plain)
    for fetched in fetch(source, found.pool.refs, batch):
        probe.add(fetched)
        for number, image in zip(fetched.numbers, fetched.images, strict=True):
            found.thumbnails[number] = pictures.data_url(pictures.thumbnail(image, side))
        shown.step(len(fetched.numbers))
    found.probed = probe.found
    if len(found.thumbnails) < len(found.pool):
        found.notes.append(f"{len(found.pool) - len(found.thumbnails):,} images could not be read again")


def _evidence(
    source: Source,
    model: nn.Module,
    device: torch.device,
    found: Findings,
    shown: ReportProgress,
) -> None:
    """Grad-CAM and the map of the ranked channels, group by group, at the last layer that has maps."""
    layers = [name for name, _ in source.ranking.layers if len(source.plan.layer(name).shape) == 2]
    if not layers or not found.cam_rows:
        return
    layer = found.cam_layer = layers[-1]
    shown.stage("class evidence", sum(map(len, found.cam_rows.values())))
    settings = source.job.model.input
    normalise = Normalise(tuple(settings.mean), tuple(settings.std), device)
    target = source.targets[0]
    refs = {number: found.pool.refs[number] for numbers in found.cam_rows.values() for number in numbers}
    numbers = list(refs)
    images: dict[int, torch.Tensor] = {}
    for fetched in fetch(source, list(refs.values()), len(refs)):
        images.update(zip((numbers[i] for i in fetched.numbers), fetched.images, strict=True))
    for group, rows in found.cam_rows.items():
        held = [number for number in rows if number in images]
        if not held:
            continue
        outputs = [cam.output_of(target, found.probed.outputs[n], found.probed.labels[n]) for n in held]
        weights = _channel_weights(source, group, layer)
        stacked = torch.stack([images[n] for n in held]).to(device)
        try:
            seen = cam.evidence(model, layer, stacked, outputs, weights, normalise)
        except ModelError as error:
            found.notes.append(f"no class evidence: {error}")
            return
        if seen is not None:
            found.cams.append({"group": group, "rows": held, "weights": weights, "evidence": seen})
        shown.step(len(held))


def _channel_weights(source: Source, group: int, layer: str) -> dict[int, float]:
    """Score times sign of the correlation, of the layer's best channels in one group (first target)."""
    ranking = source.ranking
    part = slice(ranking.start(layer), ranking.start(layer) + dict(ranking.layers)[layer])
    score, rank, pearson = (ranking.numbers(0, group, name)[part] for name in ("score", "layer_rank", "pearson"))
    return {
        int(channel): float(score[channel] * (-1 if pearson[channel] < 0 else 1))
        for channel in np.flatnonzero(rank <= CAM_CHANNELS)
    }


def _where(source: Source, model: nn.Module, device: torch.device, found: Findings, shown: ReportProgress) -> None:
    """Places of the sample's rows, and the model's predictions for the first of them."""
    if source.sample is None:
        return
    try:
        found.places = read_places(source)
    except (PcaceError, OSError) as error:
        found.notes.append(f"no map: {error}")
    if found.places is None:
        return
    rows = np.arange(min(GEOGRAPHY_ROWS, len(source.sample)), dtype=np.int64)
    shown.stage("predictions for the map", len(rows))
    probe = Probe(source, model, device, BATCH[device.type], {})
    for fetched in fetch(source, source.sample.refs(rows), BATCH[device.type]):
        probe.add(fetched)
        shown.step(len(fetched.numbers))
    found.predictions = np.full(len(source.sample), np.nan)
    target = source.targets[0]
    for number, outputs in probe.found.outputs.items():
        found.predictions[number] = cam.prediction(target, outputs, probe.found.labels[number])


def _draw(
    source: Source,
    model: nn.Module,
    device: torch.device,
    selection: Selection,
    found: Findings,
    options: ReportOptions,
    shown: ReportProgress,
) -> None:
    """Synthetic images, some channels of a layer at a time."""
    settings = source.job.model.input
    canvas = Canvas(tuple(settings.mean), tuple(settings.std), source.image_shape)
    shown.stage("images that excite the channels", len(selection.channels))
    at_once = DRAWN_AT_ONCE[device.type]
    for layer, channels in selection.pages.items():
        units = source.plan.layer(layer).mean_unit.double() * 1024  # a sixteenth of the grid: about a deviation
        for start in range(0, len(channels), at_once):
            some = channels[start : start + at_once]
            drawn = excite(
                model,
                layer,
                some,
                canvas,
                device=device,
                seed=options.seed,
                steps=options.steps,
                units=[float(units[channel]) for channel in some],
            )
            found.synthetic.update({(layer, channel): image for channel, image in zip(some, drawn, strict=True)})
            shown.step(len(some))
