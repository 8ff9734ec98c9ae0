"""Transformers: their tokens become the grid of the patches, tokens apart have their values, channels their names."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import torchvision
from transformers import SwinConfig, SwinForImageClassification

from pcace_dist.reporting.sight.tokens import NO_TOKENS, TokenLayer, token_layers
from tests.models.library_models import vit
from tests.reporting.conftest import EMBEDDINGS, MLP, VALUES, Reported
from tests.reporting.opened import OpenedReport, pixels
from tests.reporting.square import CLS, PATCH, SIDE, SQUARE
from tests.reporting.test_report import squares_of


@pytest.fixture(scope="module")
def opened(squares_vit: Reported) -> OpenedReport:
    return OpenedReport(squares_vit.page)


def brightest_patches(left: int, top: int) -> np.ndarray:
    """The share of each patch (4, 4) that the square covers."""
    image = np.zeros((SIDE, SIDE))
    image[top : top + SQUARE, left : left + SQUARE] = 1
    return np.asarray(image.reshape(SIDE // PATCH, PATCH, -1, PATCH).mean((1, 3)))


def test_the_planted_square_is_where_the_overlay_is_bright(squares: Reported, opened: OpenedReport) -> None:
    places = squares_of(squares.data)
    exemplars = opened.channel(EMBEDDINGS, 0)["exemplars"]
    assert len(exemplars) == 8
    for tile in exemplars:
        row = opened.data["rows"][str(tile["row"])]
        left, top, label = places[row["file"], row["row"]]
        overlay = pixels(tile["map"], "RGBA")[..., 3]
        covered = brightest_patches(left, top)
        assert label == 1 and overlay.shape == (4, 4)
        assert overlay.argmax() == covered.argmax() or covered.flat[overlay.argmax()] > 0.2
        assert np.corrcoef(overlay.reshape(-1), covered.reshape(-1))[0, 1] > 0.9
        assert tile["apart"] == [CLS]


def test_an_exemplar_is_cut_to_the_patch_that_the_square_covers_most(squares: Reported, opened: OpenedReport) -> None:
    places = squares_of(squares.data)
    for tile in opened.channel(EMBEDDINGS, 0)["exemplars"]:
        row = opened.data["rows"][str(tile["row"])]
        left, top, _ = places[row["file"], row["row"]]
        x, y, wide, high = tile["box"]
        patch = round(y * SIDE / PATCH), round(x * SIDE / PATCH)
        assert (wide, high) == (PATCH / SIDE, PATCH / SIDE) and (x, y) == (patch[1] * wide, patch[0] * high)
        covered = brightest_patches(left, top)
        assert covered[patch] == covered.max()
    behind = next(channel for layer, channel in opened.data["pages"] if layer == VALUES)
    assert all("box" not in tile for tile in opened.channel(VALUES, behind)["exemplars"])  # it sees all


def test_class_evidence_is_a_grid_of_patches(opened: OpenedReport) -> None:
    shown = opened.data["cam"]
    assert shown["layer"] == VALUES and len(shown["entries"]) > 5
    assert {np.shape(entry["cam"]) for entry in shown["entries"]} == {(4, 4)}
    assert any(np.any(entry["cam"]) for entry in shown["entries"])


def test_axes_are_grids_and_the_cls_token_stands_apart(opened: OpenedReport) -> None:
    held = opened.channel(EMBEDDINGS, 0)
    assert [pixels(axis).shape for axis in held["axes"]] == [(4, 4)] * 2
    assert held["axesApart"] == [[0.0], [0.0]]  # it never varies
    layer = opened.data["layers"][0]
    assert (layer["name"], layer["apart"]) == (EMBEDDINGS, ["CLS"])


def test_channels_of_heads_and_mlps_are_named(opened: OpenedReport) -> None:
    said = {layer["name"]: layer["said"] for layer in opened.data["layers"]}
    assert said == {EMBEDDINGS: {}, MLP: {"mlp": True}, VALUES: {"parts": ["value"], "heads": 2, "width": 8}}


def test_registers_stand_apart_and_one_projection_gives_three_parts() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, reg_tokens=4).eval()
    [layer] = token_layers(model, {"blocks.0.attn.qkv": (9,)}, (3, 32, 32)).values()
    assert layer.apart == ("CLS", "register 1", "register 2", "register 3", "register 4") and layer.patches == (2, 2)
    assert layer.said == {"parts": ["query", "key", "value"], "heads": 3, "width": 64}
    grid, apart = layer.pictures(torch.arange(9.0), (9,))
    assert grid is not None and grid.tolist() == [[5, 6], [7, 8]] and apart.tolist() == [0, 1, 2, 3, 4]


def test_where_nothing_tells_tokens_are_a_row() -> None:
    grid, apart = TokenLayer().pictures(torch.arange(6.0), (6,))
    assert grid is not None and grid.tolist() == [[0, 1, 2, 3, 4, 5]] and len(apart) == 0
    assert token_layers(vit().eval(), {"vit.layers.0.mlp.fc1": (17,)}, (3, 33, 33)) == {}  # it takes no such images


def test_a_swin_has_maps_and_needs_no_tokens() -> None:
    assert token_layers(torchvision.models.swin_t(), {"features.1.0.norm1": (8, 8)}, (3, 32, 32)) == {}
    grid, _ = NO_TOKENS.pictures(torch.arange(4.0), (2, 2))
    assert grid is not None and grid.tolist() == [[0, 1], [2, 3]]


def test_stages_that_merge_patches_have_smaller_grids() -> None:
    config = SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4)
    shapes = {f"swin.encoder.layers.{stage}.blocks.0.layernorm_after": (64 // 4**stage,) for stage in (0, 1)}
    found = token_layers(SwinForImageClassification(config).eval(), shapes, (3, 32, 32))
    assert [layer.patches for layer in found.values()] == [(8, 8), (4, 4)]
    assert all(layer.apart == () for layer in found.values())
