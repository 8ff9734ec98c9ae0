"""Builds a report: read the run, choose rows, fetch, probe, draw, write. Knows all other modules of the report."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from pcace_dist.analysis.publish import write_bytes
from pcace_dist.artifacts.rankings import why_unranked
from pcace_dist.artifacts.reading.rows import fetch
from pcace_dist.config.targets import have_classes
from pcace_dist.datasets.decoding.thumbnail import data_url, thumbnail
from pcace_dist.errors import DatasetError, JobError, ModelError, PcaceError, UserError, require_packages
from pcace_dist.models.in_memory import GONE, is_gone
from pcace_dist.models.inputs import Normalise
from pcace_dist.models.settings import deterministic_only
from pcace_dist.reporting import content, pictures
from pcace_dist.reporting.comparison import compare
from pcace_dist.reporting.evidence import growth
from pcace_dist.reporting.findings import Findings
from pcace_dist.reporting.geography import read_places
from pcace_dist.reporting.history import history_of, past_of
from pcace_dist.reporting.options import ReportOptions
from pcace_dist.reporting.page import render
from pcace_dist.reporting.paper import find_browser, print_page
from pcace_dist.reporting.progress import ReportProgress
from pcace_dist.reporting.row_choice import choose_errors, choose_rows
from pcace_dist.reporting.selection import PageSelection, select
from pcace_dist.reporting.sight import cam
from pcace_dist.reporting.sight.probe import Probe
from pcace_dist.reporting.sight.stages import attribute, draw, find_fields
from pcace_dist.reporting.sight.tokens import NO_TOKENS, token_layers
from pcace_dist.reporting.source import ReportSource, open_report_source
from pcace_dist.reporting.trust import trust_of
from pcace_dist.reporting.words import LabelModel, known_words, names_of

CAM_CHANNELS = 10
CAM_LAYERS = 4  # of which the last with a gradient has its evidence shown
PREDICTED_ROWS = 512  # of the sample
SMALL_IMAGE = 64  # pixels of the longer side
BATCH = {"cpu": 16, "cuda": 128}


@dataclass(frozen=True)
class ReportResult:
    """The path and size of the page, the numbers of channels and images with pictures, seconds by stage, notes, and the
    path of the PDF, if one was asked for."""

    path: str
    size: int
    channels: int
    images: int
    seconds: dict[str, float]
    notes: tuple[str, ...]
    pdf: str | None = None


def build_report(run: str, options: ReportOptions, *, progress: ReportProgress | None = None) -> ReportResult:
    """Write the report of a finished run. Raises UserError for a wrong run or option, OutputError where the page cannot
    be written and, before anything is computed, NotInstalled where the extra `report` is not installed.

    If the images can no longer be read (the data set moved or changed), the page has no pictures, and a note says so.
    """
    _refuse(options)
    require_packages("pcace report", "report", "captum", "jinja2", "plotly")
    browser = find_browser() if options.pdf else None
    with progress or ReportProgress() as report_progress:
        return _build(run, options, browser, report_progress)


def _refuse(options: ReportOptions) -> None:
    """Raise JobError for options that cannot be met: before anything is computed."""
    if options.output is not None and os.path.isdir(options.output):
        raise JobError(f"--output {options.output}: is a folder; name a file, such as {options.output}/report.html")
    if options.blur and not options.images:
        raise JobError("--blur: shows pictures blurred, and --no-images shows none; give one of them")


def _build(run: str, options: ReportOptions, browser: str | None, progress: ReportProgress) -> ReportResult:
    device = choose_device(options.device)
    progress.stage("reading the run")
    source = open_report_source(run, layers=options.layers)
    selection = select(source.ranking, options)
    findings = Findings()
    if selection.left_out:
        findings.notes.append(
            f"{selection.left_out:,} of {len(source.ranking.groups):,} groups did not fit on one page: the largest are "
            "shown; --groups chooses others"
        )
    label_model = None if options.labels is None else LabelModel(source, options)
    _compare(source, selection, findings, options)
    progress.stage("stability, evaluation, sets")
    findings.trust = trust_of(source, selection.groups)
    table, grouped = source.ranking.table, source.job.group_by is not None
    findings.notes += why_unranked(table, source.ranking.names, source.job.statistics, grouped=grouped)
    hidden = _why_hidden(source, options)
    if hidden is not None:
        findings.shows_images = False
        findings.notes.append(hidden)
    transforms = choose_rows(source, selection, findings)
    if label_model is None:
        findings.names = names_of(source, selection, known_words(source))
    with one_thread_for(source.image_shape):
        _grow(source, selection, findings, progress)
    with quiet_backends(), one_thread_for(source.image_shape), _images(source, selection, findings) as has_images:
        if not has_images:
            _tokens_of_axes(source, selection, findings, progress)
        else:
            progress.stage("loading the model")
            model = without_inplace(source.load_model())
            findings.tokens = token_layers(model, _shapes(source, selection), source.input_shape)
            model = model.to(device)
            if not source.is_of_todays_code(model):
                findings.notes.append(
                    f"the code of {source.origin.job.model.factory} has changed since this run was ranked: pictures, "
                    "maps and class evidence come from the model as it is now, the ranking does not"
                )
            _predict(source, model, device, selection, findings, progress)
            _look(source, model, device, findings, options, progress)
            find_fields(source, model, findings, progress)
            if not options.blur:  # single pixels would show what the blur hides
                attribute(source, model, device, BATCH[device.type], findings, progress)
            _evidence(source, model, device, findings, progress)
            if label_model is not None and source.sample is not None:
                findings.names = names_of(source, selection, label_model.of(source, progress))
            if options.synthesis:
                draw(source, model, device, selection, findings, options, progress)
    if label_model is not None and findings.names is None:
        findings.notes.append(f"no names by --labels {options.labels}: the run has no sampled images to show it")
    progress.stage("writing the page")
    page = content.page(source, selection, findings, transforms)
    data = render(page)
    path = options.output or f"{source.run.path}/report.html"
    write_bytes(data, path, source.run.storage)
    pdf = None if browser is None else _print(data, browser, path, source, progress)
    shown = len(selection.channels), len(findings.thumbnails)
    return ReportResult(path, len(data), *shown, progress.seconds, tuple(findings.notes), pdf)


def _print(page: bytes, browser: str, path: str, source: ReportSource, progress: ReportProgress) -> str:
    """The page as a PDF beside it; its path."""
    progress.stage("printing the PDF")
    pdf = f"{path.removesuffix('.html')}.pdf"
    write_bytes(print_page(page, browser), pdf, source.run.storage)
    return pdf


def _why_hidden(source: ReportSource, options: ReportOptions) -> str | None:
    """Why no image may be shown; None where images may be."""
    for run in (source.run, source.origin.run):
        if not run.shows_images:
            return f"no pictures: {run.path} was ranked with `shown: none`"
    return None if options.images else "no pictures: asked for with --no-images"


def _shapes(source: ReportSource, selection: PageSelection) -> dict[str, tuple[int, ...]]:
    return {name: source.plan.layer(name).shape for name in selection.pages}


def _tokens_of_axes(
    source: ReportSource, selection: PageSelection, findings: Findings, progress: ReportProgress
) -> None:
    """Without pictures, a transformer is loaded only to draw its axes on the grid of its patches."""
    shapes = _shapes(source, selection)
    if findings.shows_images or not any(len(shape) == 1 for shape in shapes.values()):
        return
    progress.stage("loading the model")
    with contextlib.suppress(PcaceError):  # then the tokens are a row
        findings.tokens = token_layers(source.load_model(), shapes, source.input_shape)


def _compare(source: ReportSource, selection: PageSelection, findings: Findings, options: ReportOptions) -> None:
    """With another run: the one asked for, else the last one before it in its schedule."""
    if options.against is not None:
        other = open_report_source(options.against, layers=options.layers)
        findings.against = compare(source, other, selection.groups)
    try:
        past = past_of(source.run)
        findings.history = history_of(source, selection.groups, past)
        if options.against is None and past is not None and past.predecessor is not None:
            other = open_report_source(past.predecessor)
            findings.against = compare(source, other, selection.groups)
    except UserError as error:
        findings.notes.append(f"nothing of its schedule: {error}")


def choose_device(name: str) -> torch.device:
    """cpu, cuda or auto. Raises JobError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise JobError(f"--device {name}: this machine has no GPU; use --device cpu")
    if name != "cpu" and not name.startswith("cuda"):
        raise JobError(f"--device {name!r}: is not cpu, cuda or auto")
    return torch.device(name)


def without_inplace(model: nn.Module) -> nn.Module:
    """The model without in-place operations, because maps are read after the pass."""
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return model


@contextlib.contextmanager
def quiet_backends() -> Iterator[None]:
    """Deterministic algorithms where there are any; no warnings of libraries on the user's screen."""
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    deterministic_only(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        deterministic_only(was_deterministic)


@contextlib.contextmanager
def one_thread_for(shape: tuple[int, int]) -> Iterator[None]:
    """One thread for small images: on a busy machine, several threads would mostly wait for each other."""
    threads_before = torch.get_num_threads()
    if max(shape) <= SMALL_IMAGE:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)


@contextlib.contextmanager
def _images(source: ReportSource, selection: PageSelection, findings: Findings) -> Iterator[bool]:
    """Whether there are images to show. A problem with them becomes a note; the report goes on."""
    if not selection.channels or not findings.shows_images:
        yield False
        return
    if not len(findings.pool):
        codes = source.summary.get("from_codes")
        whose = "this run" if codes is None else f"{codes}, whose codes were ranked, is gone or"
        findings.notes.append(f"{whose} keeps no exemplars: there are no pictures")
        yield False
        return
    try:
        source.listing  # noqa: B018  (raises where the data set is gone)
    except DatasetError as error:
        findings.notes.append(f"no pictures: {error}")
        yield False
        return
    if is_gone(source.origin.job.model.factory):
        findings.notes.append(f"no pictures: {source.origin.job.model.factory}: {GONE}")
        yield False
        return
    yield True


def _grow(source: ReportSource, selection: PageSelection, findings: Findings, progress: ReportProgress) -> None:
    if source.sample is None or not selection.channels:
        return
    progress.stage("scores by number of images", len(selection.pages) * len(selection.groups))
    for layer, channels in selection.pages.items():
        by_group = {}
        for group in selection.groups:
            by_group[group] = growth(source, source.plan.layer(layer), np.array(channels, np.int64), group)
            progress.step()
        findings.growth[layer] = by_group


# -- with the model


def _predict(
    source: ReportSource,
    model: nn.Module,
    device: torch.device,
    selection: PageSelection,
    findings: Findings,
    progress: ReportProgress,
) -> None:
    """The geographical places of the sample's rows; the model's predictions for the first of them, for the map and to
    find those that it gets wrong."""
    if source.sample is None:
        return
    try:
        findings.places = read_places(source)
    except (PcaceError, OSError) as error:
        findings.notes.append(f"no map: {error}")
    errs = source.dataset.label is not None and not source.groups_are_labels and have_classes(source.targets)
    if findings.places is None and not errs:
        return
    rows = np.arange(min(PREDICTED_ROWS, len(source.sample)), dtype=np.int64)
    progress.stage("predictions for sampled images", len(rows))
    probe = Probe(source, model, device, BATCH[device.type], {}, {})
    for fetched in fetch(source, source.sample.refs(rows), BATCH[device.type]):
        probe.add(fetched)
        progress.step(len(fetched.numbers))
    outputs, labels = probe.found.outputs, probe.found.labels
    if findings.places is not None:
        findings.predictions = np.full(len(source.sample), np.nan)
        for row, values in outputs.items():
            findings.predictions[row] = cam.prediction(source.targets[0], values, labels[row])
    if errs:
        wrong = [
            row
            for row, values in outputs.items()
            if 0 <= labels[row] < len(values) and len(values) > 1 and values.argmax() != labels[row]
        ]
        choose_errors(source, selection, findings, np.array(sorted(wrong), np.int64))


def _look(
    source: ReportSource,
    model: nn.Module,
    device: torch.device,
    findings: Findings,
    options: ReportOptions,
    progress: ReportProgress,
) -> None:
    """Fetch the pool's rows once, and compute thumbnails, maps and outputs."""
    channels_of_row: dict[int, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for (layer, channel), number in findings.shown_rows():
        channels_of_row[number][layer].add(channel)
    channels_by_row = {n: {layer: tuple(sorted(c)) for layer, c in by.items()} for n, by in channels_of_row.items()}
    progress.stage("images and their activation maps", len(findings.pool))
    side = pictures.thumbnail_side(len(findings.pool), source.image_shape)
    if options.blur:
        side = pictures.blurred_side(source.image_shape)
    batch = BATCH[device.type]
    probe = Probe(source, model, device, batch, channels_by_row, findings.tokens)
    for fetched in fetch(source, findings.pool.refs, batch):
        probe.add(fetched)
        for number, image in zip(fetched.numbers, fetched.images, strict=True):
            findings.thumbnails[number] = data_url(thumbnail(image, side))
        progress.step(len(fetched.numbers))
    findings.probed = probe.found
    if len(findings.thumbnails) < len(findings.pool):
        findings.notes.append(f"{len(findings.pool) - len(findings.thumbnails):,} images could not be read again")


def _evidence(
    source: ReportSource,
    model: nn.Module,
    device: torch.device,
    findings: Findings,
    progress: ReportProgress,
) -> None:
    """Grad-CAM and the map of the ranked channels, group by group, at the last layer that has maps and, of the last
    few, something to show: behind the last attention only the CLS token counts."""
    grids = {name: _grid_of(source, findings, name) for name, _ in source.ranking.layers}
    layers = [name for name, grid in grids.items() if grid is not None][-CAM_LAYERS:]
    if not layers or not findings.cam_rows:
        return
    target = source.targets[0]
    if target.kind == "cosine" or (target.of_outputs and not target.differentiable):
        what = "is of an embedding" if target.kind == "cosine" else "has no gradient"
        findings.notes.append(f"no class evidence: target {target.name} {what}")
        return
    progress.stage("class evidence", sum(map(len, findings.cam_rows.values())))
    numbers = [number for rows in findings.cam_rows.values() for number in rows]
    images: dict[int, torch.Tensor] = {}
    for fetched in fetch(source, [findings.pool.refs[number] for number in numbers], len(numbers)):
        images.update(zip((numbers[i] for i in fetched.numbers), fetched.images, strict=True))
    for layer in reversed(layers):
        try:
            cams = list(_cams(source, model, layer, findings, images, device))
        except ModelError as error:
            findings.notes.append(f"no class evidence: {error}")
            return
        shows = any(group_cam["evidence"].grad_cam.any() for group_cam in cams)
        if shows or findings.cam_layer is None:
            findings.cam_layer, findings.cams = layer, cams
        if shows:
            break
    progress.step(len(images))


def _grid_of(source: ReportSource, findings: Findings, layer: str) -> tuple[int, int] | None:
    return findings.tokens.get(layer, NO_TOKENS).grid(source.plan.layer(layer).shape)


def _cams(
    source: ReportSource,
    model: nn.Module,
    layer: str,
    findings: Findings,
    images: Mapping[int, torch.Tensor],
    device: torch.device,
) -> Iterator[dict[str, Any]]:
    """The evidence of each group's images at one layer. Raises ModelError where there is no gradient."""
    settings = source.origin.job.model.input
    normalise = Normalise(tuple(settings.mean), tuple(settings.std), device)
    grid, before = _grid_of(source, findings, layer), len(findings.tokens.get(layer, NO_TOKENS).apart)
    assert grid is not None
    probed = findings.probed
    for group, rows in findings.cam_rows.items():
        readable = [number for number in rows if number in images]
        if not readable:
            continue
        outputs = [cam.output_of(source.targets[0], probed.outputs[n], probed.labels[n]) for n in readable]
        weights = _channel_weights(source, group, layer)
        stacked = torch.stack([images[n] for n in readable]).to(device)
        evidence = cam.evidence(model, layer, stacked, outputs, weights, normalise, grid=grid, before=before)
        yield {"group": group, "rows": readable, "weights": weights, "evidence": evidence}


def _channel_weights(source: ReportSource, group: int, layer: str) -> dict[int, float]:
    """Score times the sign of the correlation, for the layer's best channels in one group (first target)."""
    ranking = source.ranking
    part = slice(ranking.start(layer), ranking.start(layer) + dict(ranking.layers)[layer])
    score, rank, pearson = (ranking.numbers(0, group, name)[part] for name in ("score", "layer_rank", "pearson"))
    return {
        int(channel): float(score[channel] * (-1 if pearson[channel] < 0 else 1))
        for channel in np.flatnonzero(rank <= CAM_CHANNELS)
    }
