"""Turns the findings into the data that the page's scripts read. No I/O, no models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from pcace_dist.artifacts.rankings import EFFECT_STATUSES, SMALL_SUPPORT
from pcace_dist.artifacts.reading.class_names import ClassNames
from pcace_dist.config.targets import OF_A_CLASS, TargetSpec, have_classes
from pcace_dist.datasets.decoding.thumbnail import data_url
from pcace_dist.reporting import pictures
from pcace_dist.reporting.clusters import across_groups
from pcace_dist.reporting.evidence import Transforms, density, scatter
from pcace_dist.reporting.findings import ChannelKey, Findings, RankingKey, Valued
from pcace_dist.reporting.glossary import GLOSSARY, IN_SENTENCES
from pcace_dist.reporting.page import PageContent, floats, numbers
from pcace_dist.reporting.selection import PageSelection
from pcace_dist.reporting.sight.tokens import NO_TOKENS
from pcace_dist.reporting.source import NUMBERS, Ranking, ReportSource, SampleTable
from pcace_dist.statistics.score import usable_images

STATUSES = ("ok", "constant", "too_few_images")
NEARLY_NONE = 0.05  # if at most this share of a channel's values is above zero, its maps are drawn from the least value
MAP_CHANNELS = 12  # channels whose mean activation can be put on the map


def page(
    source: ReportSource, selection: PageSelection, findings: Findings, transforms: Transforms | None
) -> PageContent:
    """The whole content of the page."""
    title = str(source.run.path).rstrip("/").rsplit("/", 1)[-1]
    data = {
        "title": title,
        "facts": _facts(source),
        "stages": source.summary.get("stages", {}),
        "notes": findings.notes,
        "showsImages": findings.shows_images,
        "targets": list(map(source.ranking.names.target, source.ranking.targets)),
        "classes": _evidence_is_of_a_class(source.targets[0], source.job.dataset.label),
        "groupBy": source.job.group_by,
        "groups": [
            {"name": _name(source, source.ranking.groups[g]), "images": source.ranking.block(0, g)["images"][0].as_py()}
            for g in selection.groups
        ],
        "layers": [_layer(source, findings, name, count) for name, count in source.ranking.layers],
        "statuses": list(STATUSES),
        "effectStatuses": list(EFFECT_STATUSES),
        "ranking": [
            [_block(source.ranking, t, g) for g in selection.groups] for t in range(len(source.ranking.targets))
        ],
        "pages": [list(channel) for channel in selection.channels],
        "rows": {str(number): _row(source, findings, number) for number in findings.thumbnails},
        "across": _across(source.ranking),
        "cam": _cam(source.ranking.names, selection, findings),
        "places": _places(source, selection, findings),
        "compared": _compared(selection, findings),
        "trust": findings.trust,
        "names": findings.names,
        "columns": [t for t, target in enumerate(source.targets) if target.kind == "column"],
        "history": findings.history,
        "made": _made(source),
        "against": None if findings.against is None else findings.against.path,
        "judged": None if findings.against is None else findings.against.judged,
        "imageSide": max(source.image_shape),
        "imageRatio": source.image_shape[1] / source.image_shape[0],
        "groupsAreLabels": source.groups_are_labels,
        "glossary": GLOSSARY,
        "terms": IN_SENTENCES,
        "fewImages": usable_images(source.plan.components, source.plan.knots),
        "smallSupport": SMALL_SUPPORT,
    }
    sampled = _Sampled(source)
    channels = [_channel(source, selection, findings, transforms, sampled, channel) for channel in selection.channels]
    return PageContent(f"{title} - pcace report", data, channels, findings.thumbnails)


def _made(source: ReportSource) -> dict[str, Any]:
    """What the page says at its end: when the run ended (UTC), the versions that made it, its job."""
    ended = None if source.run.finished_at is None else datetime.fromtimestamp(source.run.finished_at, UTC)
    return {
        "ended": None if ended is None else f"{ended.day} {ended:%B %Y, %H:%M} UTC",
        "versions": source.summary.get("versions", {}),
        "job": source.run.job_text(),
    }


def _name(source: ReportSource, group: Any) -> str:
    """A group's name on the page."""
    return "all images" if source.job.group_by is None else source.ranking.names.group(group)


def _evidence_is_of_a_class(target: TargetSpec, label: str | None) -> bool:
    """Whether what Grad-CAM explains is a class: not an output of a regression."""
    return target.kind in OF_A_CLASS or (target.kind == "column" and label is not None)


def _facts(source: ReportSource) -> list[list[str]]:
    summary, job = source.summary, source.job
    path = ", ".join(job.dataset.path)
    explained = summary.get("explained_variance", {})
    rate = summary.get("images_per_second")
    return [
        ["Model", job.model.factory],
        ["Weights", job.model.weights],
        ["Data", path],
        ["Target", ", ".join(map(source.ranking.names.target, source.ranking.targets))],
        ["Grouped by", job.group_by or "not grouped"],
        ["Images", f"{summary['images']:,}"],
        ["Bad rows", f"{summary['bad_rows']:,}"],
        ["Channels", f"{source.ranking.channels:,} in {len(source.ranking.layers):,} layers"],
        ["Components, knots", f"{source.plan.components}, {source.plan.knots}"],
        ["Pilot", f"{source.plan.pilot_rows:,} images"],
        [
            "Explained variance",
            f"{100 * float(np.mean(list(explained.values()))):.0f} % on average" if explained else "",
        ],
        ["Time", f"{summary['seconds']:,.1f} s" + (f", {rate:,.0f} images/s" if rate else "")],
        ["Run", source.run.path],
        ["Plan", str(summary["plan"])],
    ]


def _layer(source: ReportSource, findings: Findings, name: str, count: int) -> dict[str, Any]:
    plan, tokens = source.plan.layer(name), findings.tokens.get(name, NO_TOKENS)
    norms = [float("nan") if norm is None else norm for norm in source.weight_norms(name)]
    return {
        "name": name,
        "channels": count,
        "shape": list(plan.shape),
        "norms": floats(norms),
        "explained": numbers(plan.explained.double().mean(0).numpy(), 3),
        "apart": list(tokens.apart),
        "said": tokens.said,
    }


def _block(ranking: Ranking, target: int, group: int) -> dict[str, Any]:
    columns: dict[str, Any] = {name: floats(ranking.numbers(target, group, name)) for name in NUMBERS}
    columns["status"] = _coded(ranking, target, group, "status", STATUSES)
    columns["effect_status"] = _coded(ranking, target, group, "effect_status", EFFECT_STATUSES)
    return columns


def _coded(ranking: Ranking, target: int, group: int, name: str, statuses: Sequence[str]) -> dict[str, str]:
    """A column of statuses as indices; `off` where an older run has no such column."""
    if name not in ranking.table.column_names:
        return floats(np.full(ranking.channels, statuses.index("off")))
    return floats([statuses.index(status) for status in ranking.block(target, group)[name].to_pylist()])


def _row(source: ReportSource, findings: Findings, number: int) -> dict[str, Any]:
    file, _, row = findings.pool.refs[number]
    outputs, label = findings.probed.outputs[number], findings.probed.labels[number]
    names = source.ranking.names
    entry: dict[str, Any] = {"file": file, "row": row}
    if label >= 0:
        entry["label"] = _number_or_name(names.label(label))
    if source.job.group_by is not None and source.job.group_by == source.dataset.group_by:
        entry["group"] = names.group(findings.probed.groups[number])
    if len(outputs) > 1 and have_classes(source.targets):
        entry["predicted"] = _number_or_name(names.label(int(outputs.argmax())))
    return entry


def _number_or_name(shown: str) -> int | str:
    """A class as the page has it: a number, with its name where it has one."""
    return int(shown) if shown.isdecimal() else shown


def _across(ranking: Ranking) -> list[dict[str, Any]]:
    names = [f"{layer}/{channel}" for layer, count in ranking.layers for channel in range(count)]
    entries = []
    for target in range(len(ranking.targets)):
        ordered = across_groups(ranking, target)
        if ordered is not None:
            entries.append(
                {
                    "target": target,
                    "channels": [names[channel] for channel in ordered.channels],
                    "groups": [ranking.names.group(ranking.groups[g]) for g in ordered.groups],
                    "score": numbers(ordered.score, 4),
                    "tree": [[numbers(x, 6), numbers(y, 6)] for x, y in ordered.tree],
                }
            )
    return entries


def _cam(names: ClassNames, selection: PageSelection, findings: Findings) -> dict[str, Any] | None:
    if not findings.cams:
        return None
    entries = []
    for group_cam in findings.cams:
        evidence = group_cam["evidence"]
        for i, number in enumerate(group_cam["rows"]):
            entries.append(
                {
                    "group": selection.groups.index(group_cam["group"]),
                    "row": number,
                    "output": _number_or_name(names.output(int(evidence.outputs[i]))),
                    "cam": _small(evidence.grad_cam[i]),
                    "parts": [_small(part) for part in evidence.parts[i]],
                    "agreement": None if np.isnan(evidence.agreement[i]) else round(float(evidence.agreement[i]), 3),
                }
            )
    weights = {
        str(selection.groups.index(group_cam["group"])): [[c, round(w, 3)] for c, w in group_cam["weights"].items()]
        for group_cam in findings.cams
    }
    return {"layer": findings.cam_layer, "entries": entries, "weights": weights}


def _small(values: np.ndarray) -> list[Any]:
    """A map (h, w) as rows of numbers."""
    shrunk = pictures.shrink_map(_tensor(values), values.shape)
    assert shrunk is not None
    return numbers(shrunk, 2)


def _tensor(values: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(values)).reshape(-1)


def _places(source: ReportSource, selection: PageSelection, findings: Findings) -> dict[str, Any] | None:
    sample, places = source.sample, findings.places
    if sample is None or places is None:
        return None
    index = {group: position for position, group in enumerate(selection.groups)}
    values: list[dict[str, Any]] = [
        {"name": f"target {source.ranking.names.target(name)}", "values": floats(sample.targets[:, t])}
        for t, name in enumerate(source.ranking.targets)
    ]
    if findings.predictions is not None:
        values.append({"name": "prediction (model output)", "values": floats(findings.predictions)})
    for layer, channel in _map_channels(source.ranking, selection):
        plan = source.plan.layer(layer)
        means = sample.means(layer)[:, channel] * float(plan.mean_unit[channel]) + float(plan.mean_centre[channel])
        name = f"{layer}/{channel}"
        values.append({"name": f"mean activation of {name}", "channel": name, "values": floats(means)})
    return {
        "columns": list(places.columns),
        "latitude": floats(places.latitude),
        "longitude": floats(places.longitude),
        "group": [index.get(int(group), -1) for group in sample.group],
        "values": values,
    }


def _map_channels(ranking: Ranking, selection: PageSelection) -> list[ChannelKey]:
    """The channels that rank highest over the shown targets and groups."""
    ranks = np.stack([ranking.numbers(t, g, "rank") for t in range(len(ranking.targets)) for g in selection.groups])
    best = np.argsort(np.nan_to_num(ranks, nan=np.inf).min(0), kind="stable")[:MAP_CHANNELS]
    names = [(layer, channel) for layer, count in ranking.layers for channel in range(count)]
    return [names[position] for position in best]


def _compared(selection: PageSelection, findings: Findings) -> list[dict[str, Any]]:
    blocks = () if findings.against is None else findings.against.blocks
    return [
        {
            "target": block.target,
            "group": selection.groups.index(block.group),
            "rank": floats(block.rank),
            "score": floats(block.score),
            "moved": floats(block.moved.astype(np.float64)),
            "spearman": None if np.isnan(block.spearman) else round(block.spearman, 4),
        }
        for block in blocks
    ]


# -- one channel


class _Sampled:
    """The codes of the sample, one layer at a time in memory."""

    def __init__(self, source: ReportSource) -> None:
        self._source = source
        self._layer = ""
        self._codes: Any = None

    @property
    def sample(self) -> SampleTable | None:
        return self._source.sample

    def codes(self, layer: str) -> Any:
        assert self._source.sample is not None
        if layer != self._layer:
            self._layer, self._codes = layer, self._source.sample.codes(layer, self._source.plan.components)
        return self._codes


def _channel(
    source: ReportSource,
    selection: PageSelection,
    findings: Findings,
    transforms: Transforms | None,
    sampled: _Sampled,
    channel: ChannelKey,
) -> dict[str, Any]:
    layer, number = channel
    plan = source.plan.layer(layer)
    tokens = findings.tokens.get(layer, NO_TOKENS)
    axes = [tokens.pictures(axis, plan.shape) for axis in plan.weights[number].T]  # of weights (D, p)
    drawn = findings.synthetic.get(channel)
    low, high = _range(list(findings.probed.maps[channel].values()))
    blocks = [(t, g) for t in range(len(source.ranking.targets)) for g in selection.groups]

    seen: dict[int, dict[str, Any]] = {}  # each image once, however often it is shown

    def tiles(rows: Valued) -> list[dict[str, Any]]:
        readable = [(row, value) for row, value in rows if row in findings.thumbnails]
        for row, _ in readable:
            if row not in seen:
                seen[row] = _seen(findings, channel, row, low, high)
        return [{"row": row, "value": float(f"{value:.4g}")} for row, value in readable]

    def of_groups(rows: Mapping[tuple[ChannelKey, int], Valued]) -> dict[int, list[dict[str, Any]]]:
        return {i: tiles(rows[channel, g]) for i, g in enumerate(selection.groups) if (channel, g) in rows}

    curves, extremes, steps = {}, {}, {}
    for block in blocks:
        key = f"{block[0]}/{selection.groups.index(block[1])}"
        ends = findings.extremes.get((channel, block))
        if ends is not None:
            extremes[key] = {"high": tiles(ends[0]), "low": tiles(ends[1])}
        curve = None if transforms is None else _curve(source, transforms, sampled, block, channel)
        if curve is not None:
            curves[key] = curve
        grown = _steps(source, selection, findings, block, channel)
        if grown is not None:
            steps[key] = grown
    return {
        "exemplars": tiles(findings.exemplars.get(channel, [])),
        "ofGroup": of_groups(findings.of_group),
        "spread": of_groups(findings.spread),
        "wrong": of_groups(findings.wrong),
        "extremes": extremes,
        "axes": [data_url(pictures.signed_png(picture)) for picture, _ in axes if picture is not None],
        "axesApart": [numbers(values, 3) for _, values in axes],
        "explained": numbers(plan.explained[number].double().numpy(), 3),
        "curves": curves,
        "steps": steps,
        "synthetic": None if drawn is None else data_url(pictures.rgb_image(drawn)),
        "seen": seen,
    }


def _range(maps: Sequence[np.ndarray]) -> tuple[float, float]:
    """One scale for all maps of a channel: from zero to the largest value; or, where nearly all values are below zero,
    from the least value."""
    if not maps:
        return 0.0, 1.0
    least, most = min(float(m.min()) for m in maps), max(float(m.max()) for m in maps)
    share_above_zero = sum(int((m > 0).sum()) for m in maps) / sum(m.size for m in maps)
    return (max(least, 0.0), most) if share_above_zero > NEARLY_NONE else (least, most)


def _seen(findings: Findings, channel: ChannelKey, row: int, low: float, high: float) -> dict[str, Any]:
    """What a channel sees in an image: its map, the box that the strongest position sees, the pixels that excite it."""
    tile: dict[str, Any] = {}
    values = findings.probed.maps[channel].get(row)
    if values is not None:
        tile["map"] = data_url(pictures.heat_png(values, low, high))
    fields = findings.fields.get(channel[0])
    if fields is not None and row in findings.probed.strongest[channel]:
        tile["box"] = numbers(fields.box(*findings.probed.strongest[channel][row]), 6)
    if row in findings.attributions[channel]:
        tile["attribution"] = data_url(findings.attributions[channel][row])
    if row in findings.probed.apart[channel]:
        tile["apart"] = numbers(findings.probed.apart[channel][row], 3)
    return tile


def _curve(
    source: ReportSource, transforms: Transforms, sampled: _Sampled, block: RankingKey, channel: ChannelKey
) -> dict[str, Any] | None:
    transform = transforms.get(*block, *channel)
    if transform is None or sampled.sample is None:
        return None
    sample, knots = sampled.sample, source.plan.knots
    rows = np.flatnonzero(sample.group == block[1]).astype(np.int64)
    codes = sampled.codes(channel[0])[:, channel[1]]
    target = sample.shared.target_codes.numpy()[rows, block[0]]
    entry: dict[str, Any] = {
        "y": numbers(transform.target_knots),
        "theta": numbers(transform.theta),
        "x": numbers(transform.knots),
        "phi": numbers(transform.phi),
        "rows": len(rows),
        "yDensity": density(target, knots).tolist(),
        "density": [density(codes[rows, j], knots).tolist() for j in range(codes.shape[1])],
    }
    if len(rows):
        x, y = scatter(sample, codes, transform, block[0], rows)
        entry["scatter"] = [numbers(x, 3), numbers(y, 3)]
    return entry


def _steps(
    source: ReportSource, selection: PageSelection, findings: Findings, block: RankingKey, channel: ChannelKey
) -> dict[str, Any] | None:
    layer, number = channel
    grown = findings.growth.get(layer, {}).get(block[1])
    if grown is None:
        return None
    growth, position = grown[block[0]], selection.pages[layer].index(number)
    place = source.ranking.start(layer) + number
    ends = (source.ranking.given_plan(*block, name)[[place]] for name in ("score_low", "score_high"))
    return {
        "own": [end for own in ends for end in numbers(own, 4)],
        "images": growth.images.tolist(),
        "score": numbers(growth.score[:, position], 4),
        "low": numbers(growth.low[:, position], 4),
        "high": numbers(growth.high[:, position], 4),
    }
