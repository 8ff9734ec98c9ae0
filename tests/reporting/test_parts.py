"""The report's parts on arrays whose answer is known; no run, no browser."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn

from pcace_dist.config.targets import TargetSpec
from pcace_dist.datasets.decoding.thumbnail import data_url, thumbnail
from pcace_dist.errors import JobError, UserError
from pcace_dist.models.inputs import Normalise
from pcace_dist.reporting import pictures
from pcace_dist.reporting.build import choose_device
from pcace_dist.reporting.clusters import across_groups
from pcace_dist.reporting.content import _range
from pcace_dist.reporting.evidence import Transform, density, extreme_rows, interpolate
from pcace_dist.reporting.geography import place_columns
from pcace_dist.reporting.glossary import GLOSSARY
from pcace_dist.reporting.options import ReportOptions
from pcace_dist.reporting.page import PageContent, floats, numbers, render
from pcace_dist.reporting.selection import select
from pcace_dist.reporting.sight import cam
from pcace_dist.reporting.sight.synthesis import Canvas, excite
from pcace_dist.reporting.source import Ranking
from pcace_dist.statistics import basis
from tests.reporting.opened import pixels


def ranking(layers: dict[str, int], groups: list[Any], score: np.ndarray) -> Ranking:
    """score: (groups, channels)."""
    tables: list[pa.Table] = []
    names = [name for name, count in layers.items() for _ in range(count)]
    channels = [channel for count in layers.values() for channel in range(count)]
    for group, values in zip(groups, score, strict=True):
        rank = np.argsort(np.argsort(-values)) + 1.0
        columns = {name: values for name in ("score", "score_squared")} | {"rank": rank}
        tables.append(
            pa.table(
                {"target": ["y"] * len(names), "group": [group] * len(names), "layer": names, "channel": channels}
                | {"images": [100 + len(tables)] * len(names)}
                | columns
            )
        )
    return Ranking(("y",), tuple(groups), tuple(layers.items()), pa.concat_tables(tables))


# -- which channels


def test_without_a_ranked_channel_there_are_no_pages() -> None:
    nothing = ranking({"a": 2}, [None], np.full((1, 2), np.nan))
    place = nothing.table.column_names.index("rank")
    nothing = replace(nothing, table=nothing.table.set_column(place, "rank", pa.nulls(2, pa.float64())))
    assert select(nothing, ReportOptions()).pages == {}


def test_the_best_and_the_worst_of_every_layer_get_pictures() -> None:
    score = np.array([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.9, 0.8, 0.7]])
    chosen = select(ranking({"a": 6, "b": 3}, [None], score), ReportOptions(top=1))
    assert chosen.pages == {"a": (0, 5), "b": (0, 1, 2)}  # all of b are among the best three over all layers
    assert chosen.groups == (0,) and chosen.left_out == 0


def test_groups_beyond_what_a_page_carries_are_left_out_smallest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    ranked = ranking({"a": 2}, ["x", "y", "z"], np.random.default_rng(0).random((3, 2)))
    monkeypatch.setattr("pcace_dist.reporting.selection.MOST_NUMBERS", 4)
    chosen = select(ranked, ReportOptions())
    assert chosen.groups == (1, 2) and chosen.left_out == 1
    chosen_group = select(ranked, ReportOptions(groups=("x",)))
    assert chosen_group.groups == (0,) and chosen_group.left_out == 0, "the others fit, but nobody asked for them"
    with pytest.raises(UserError, match="no group 'w'; there are: "):
        select(ranked, ReportOptions(groups=("w",)))


def test_like_groups_and_channels_stand_side_by_side() -> None:
    random = np.random.default_rng(0)
    first, second = random.random((2, 8))
    score = np.stack([first, second, first + 0.01, second + 0.01])
    seen = across_groups(ranking({"a": 8}, ["p", "q", "r", "s"], score), 0)
    assert seen is not None
    assert {frozenset(seen.groups[:2]), frozenset(seen.groups[2:])} == {frozenset({0, 2}), frozenset({1, 3})}
    assert np.allclose(seen.score, score[np.ix_(seen.groups, seen.channels)].T)
    assert len(seen.tree) == 3
    assert across_groups(ranking({"a": 8}, [None], score[:1]), 0) is None


# -- transforms


def test_interpolation_is_straight_between_knots_and_exact_on_them() -> None:
    values = np.array([0.0, 1.0, 5.0, 2.0, 2.0])
    scale = basis.unit_scale(5)
    codes = np.array([0, scale, 2 * scale, scale + scale // 3, 4 * scale], np.uint8)
    expected = [0, 1, 5, 1 + 4 * (scale // 3) / scale, 2]
    assert np.allclose(interpolate(codes, values), expected)


def test_extreme_rows_are_those_with_the_largest_and_smallest_sum() -> None:
    knots = np.linspace(0, 1, 5)
    phi = np.stack([knots, -2 * knots])
    codes = np.array([[0, 0], [252, 0], [0, 252], [252, 252], [126, 126]], np.uint8)
    transform = Transform(knots, knots, np.stack([knots, knots]), phi)
    high, low = extreme_rows(codes, transform, np.arange(5), 2)
    assert high.tolist() == [1, 0] and low.tolist() == [2, 3]


def test_density_counts_every_row_once() -> None:
    counts = density(np.array([0, 1, 100, 252, 252], np.uint8), 5)
    assert counts.sum() == 5 and counts[-1] == 2 and len(counts) == 16


# -- pictures


def test_an_overlay_is_clear_where_the_map_is_low_and_bright_where_it_is_high() -> None:
    values = np.zeros((6, 6))
    values[2, 3] = 1
    shown = pixels(data_url(pictures.heat_png(values, 0.0, 1.0)), "RGBA")
    assert shown[..., 3].argmax() == 2 * 6 + 3 and np.delete(shown[..., 3].reshape(-1), 15).max() == 0


def test_signed_maps_are_red_above_and_blue_below_zero() -> None:
    shown = pixels(data_url(pictures.signed_png(np.array([[-1.0, 0.0, 1.0]]))), "RGB")[0]
    assert shown[0, 2] > shown[0, 0] + 0.3 and shown[2, 0] > shown[2, 2] + 0.3 and shown[1].min() > 0.9


def test_large_maps_shrink_and_vectors_have_none() -> None:
    small = pictures.shrink_map(torch.arange(112 * 56.0), (112, 56))
    assert small is not None and small.shape == (32, 16)
    assert small.mean() == pytest.approx((112 * 56 - 1) / 2, rel=0.02)
    assert pictures.shrink_map(torch.ones(1), ()) is None
    tokens = pictures.shrink_map(torch.arange(10.0), (10,))
    assert tokens is not None and tokens.shape == (1, 10)


def test_thumbnails_shrink_so_that_all_of_them_fit() -> None:
    sides = [pictures.thumbnail_side(count, (224, 224)) for count in (10, 1000, 3000, 100_000)]
    assert sides == sorted(sides, reverse=True) and sides[0] == 224 and sides[-1] == 64
    assert 3000 * sides[2] ** 2 * pictures.BYTES_PER_PIXEL <= pictures.PICTURE_BYTES
    assert pictures.thumbnail_side(10, (28, 28)) == 28


def test_small_images_are_kept_pixel_by_pixel() -> None:
    image = torch.randint(0, 256, (1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert np.allclose(pixels(data_url(thumbnail(image, 160))) * 255, image[0].numpy(), atol=0.5)


# -- terms


def test_every_heading_of_the_table_has_its_sentence() -> None:
    script = (files("pcace_dist.reporting") / "assets/table.js").read_text()
    columns = script[script.index("const COLUMNS") : script.index("const LEFT")]
    headings = re.findall(r'\["(\w+)", "', columns)
    assert len(headings) == 16 and set(headings) <= set(GLOSSARY)
    assert not any("`" in sentence or "\n" in sentence for sentence in GLOSSARY.values())


# -- synthesis and class evidence


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.Flatten(), nn.Linear(4 * 28 * 28, 2))


def test_synthetic_images_excite_their_channel_more_than_noise_and_others_do() -> None:
    network = small_network().eval().requires_grad_(False)
    canvas = Canvas((0.5, 0.5, 0.5), (0.2, 0.2, 0.2), (32, 32))
    normalise = Normalise(canvas.mean, canvas.std)
    noise = network[:3](normalise(torch.rand(64, 3, 32, 32))).mean((2, 3))
    units = noise.std(0)[:3].tolist()
    images = excite(network, "2", [0, 1, 2], canvas, device=torch.device("cpu"), units=units)
    assert images.shape == (3, 3, 32, 32)
    assert ((images < 0.02) | (images > 0.98)).mean() < 0.05, "pixels are driven to black and white"
    means = network[:3](normalise(torch.from_numpy(images))).mean((2, 3))
    for channel in range(3):
        assert means[channel, channel] > noise[:, channel].max()
        assert means[channel, channel] == means[:, channel].max()


def test_a_synthetic_image_depends_on_seed_and_channel_alone() -> None:
    network = small_network().eval().requires_grad_(False)
    canvas = Canvas((0.5, 0.5, 0.5), (0.2, 0.2, 0.2), (32, 32))

    def drawn(channels: list[int], seed: int) -> np.ndarray:
        return excite(network, "2", channels, canvas, device=torch.device("cpu"), steps=4, seed=seed)

    assert np.array_equal(drawn([1, 3], 0), drawn([1, 3], 0))
    assert np.allclose(drawn([3], 0)[0], drawn([1, 3], 0)[1], atol=1e-4)
    assert not np.allclose(drawn([3], 0), drawn([3], 1), atol=1e-2)


def test_large_inputs_are_drawn_smaller_where_the_model_takes_it() -> None:
    assert Canvas((0.0,), (1.0,), (224, 448)).sizes == [(48, 96), (224, 448)]
    assert Canvas((0.0,), (1.0,), (224, 448), side=32).sizes == [(16, 32), (224, 448)]
    assert Canvas((0.0,), (1.0,), (28, 28)).sizes == [(28, 28)]


def test_a_ranked_channel_adds_its_map_scaled_and_weighted() -> None:
    maps = torch.tensor([[[[4.0, 0.0]], [[1.0, 2.0]], [[9.0, 9.0]]]])
    parts = cam.ranked_parts(maps, {0: 0.5, 1: -1.0})
    assert torch.allclose(parts, torch.tensor([[[[0.5, 0.0]], [[-0.5, -1.0]]]]))


def test_grad_cam_of_a_linear_head_is_its_weights_times_the_maps() -> None:
    look, decide = nn.Conv2d(1, 2, 1, bias=False), nn.Linear(2, 2)
    with torch.no_grad():
        look.weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
        decide.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    network = nn.Sequential(look, nn.AdaptiveAvgPool2d(1), nn.Flatten(), decide)
    images = torch.rand(3, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    seen = cam.evidence(network.eval(), "0", images, [0, 0, 1], {0: 1.0}, Normalise((0.0,), (1.0,)), grid=(5, 5))
    expected = images[:, 0].clone()
    expected[2] = 0  # output 1 falls where the image is bright
    shape = np.where(seen.grad_cam.max((1, 2)) > 0, seen.grad_cam.max((1, 2)), 1)[:, None, None]
    peak = np.where(expected.amax((1, 2)) > 0, expected.amax((1, 2)), 1)[:, None, None]
    assert np.allclose(seen.grad_cam / shape, expected.numpy() / peak, atol=1e-5)
    assert np.allclose(seen.agreement[:2], 1) and np.isnan(seen.agreement[2])


def test_grad_cam_is_that_of_captum() -> None:
    network = small_network().eval().requires_grad_(False)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    normalise = Normalise((0.5,) * 3, (0.2,) * 3)
    seen = cam.evidence(network, "0", images, [0, 1, 0], {0: 1.0}, normalise, grid=(30, 30))
    layer, target = network.get_submodule("0"), torch.tensor([0, 1, 0])
    inputs = normalise(images).requires_grad_()
    expected = LayerGradCam(network, layer).attribute(inputs, target, relu_attributions=True)
    assert np.allclose(seen.grad_cam, expected[:, 0].detach().numpy(), atol=1e-6) and seen.grad_cam.max() > 0


class PatchMean(nn.Module):
    """Tokens (n, 1 + 16, 2) behind `look`, the first a CLS token; the output is the mean of the patches' channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(1, 2, 2, 2)
        self.look = nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.embed(images).flatten(2).transpose(1, 2)
        cls = torch.full_like(patches[:, :1], 9)
        mean: torch.Tensor = self.look(torch.cat([cls, patches], 1))[:, 1:].mean(1)
        return mean


def test_grad_cam_of_tokens_leaves_the_cls_token_out() -> None:
    network = PatchMean().eval()
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = cam.evidence(network, "look", images, [0, 1, 1], {0: 1.0}, Normalise((0.0,), (1.0,)), grid=(4, 4), before=1)
    maps = network.embed(images).detach()[torch.arange(3), [0, 1, 1]]
    assert np.allclose(seen.grad_cam, (maps / 16).clamp_min(0).numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "value", "label", "expected"),
    [
        ("logit", "label", 1, 1),
        ("logit", "label", -1, 2),
        ("logit", "predicted", 0, 2),
        ("output", 0, 1, 0),
        ("column", "no2", -1, 2),
    ],
)
def test_the_output_whose_evidence_is_shown(kind: str, value: str | int, label: int, expected: int) -> None:
    assert cam.output_of(TargetSpec(kind, value), np.array([0.1, 0.2, 0.7]), label) == expected


@pytest.mark.parametrize(
    "spec, expected",
    [
        (TargetSpec("margin", "label"), 0.2 - 0.7),
        (TargetSpec("logit", 2, minus=0), 0.7 - 0.1),
        (TargetSpec("column", "no2"), 0.7),
    ],
)
def test_a_prediction_is_the_target_as_the_model_has_it(spec: TargetSpec, expected: float) -> None:
    assert cam.prediction(spec, np.array([0.1, 0.2, 0.7]), 1) == pytest.approx(expected)


# -- page


def test_place_columns_are_found_by_name_and_type() -> None:
    assert place_columns(pa.schema([("Lat", pa.float32()), ("lon", pa.float64())])) == ("Lat", "lon")
    assert place_columns(pa.schema([("latitude", pa.string()), ("longitude", pa.float64())])) is None
    assert place_columns(pa.schema([("lat", pa.float32())])) is None


def test_numbers_survive_the_page() -> None:
    encoded = floats([1.5, float("nan"), -2])["f32"]
    assert np.array_equal(
        np.frombuffer(base64.b64decode(encoded), "<f4"), np.array([1.5, np.nan, -2], "f4"), equal_nan=True
    )
    assert numbers([[1.23456789, float("nan")]], 3) == [[1.23, None]]


def test_text_from_data_cannot_leave_its_element() -> None:
    evil = "</script><script>alert(1)</script>"
    page = render(PageContent(evil, {"x": evil}, [{"name": evil, "amp": "&"}], {0: evil})).decode()
    assert "<script>alert" not in page
    element = re.search(r'id="channel-0">(.*?)</script>', page)
    assert element is not None and json.loads(element[1]) == {"name": evil, "amp": "&"}


def test_a_device_that_is_not_there_is_a_one_line_error() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(JobError, match="--device 'tpu': is not cpu, cuda or auto"):
        choose_device("tpu")


def test_maps_are_drawn_from_zero_unless_nearly_all_of_them_lie_below() -> None:
    assert _range([np.array([[-5.0, 3.0]])]) == (0.0, 3.0)
    assert _range([np.array([[-5.0, -3.0]])]) == (-5.0, -3.0)
    assert _range([]) == (0.0, 1.0)
