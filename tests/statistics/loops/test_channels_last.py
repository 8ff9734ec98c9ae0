"""The loop over channels-last maps: its sums, bit for bit as they are defined, whatever lies beside a row."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from pcace_dist.statistics.loops import channels_last, compiled
from pcace_dist.statistics.loops.packed_axes import pack, unpack
from tests.statistics.helpers import projecting

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def maps_of(rows: int, channels: int, side: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    values = torch.randn((rows, channels, side, side), generator=torch.Generator().manual_seed(seed)).to(dtype)
    return values.contiguous(memory_format=torch.channels_last).flatten(2)


def projected(maps: Tensor, weights: Tensor) -> Tensor:
    """Components without offsets, then the mean: (B, p+1, C)."""
    components, means = channels_last.project(maps, pack(weights), torch.zeros(weights.shape[0], weights.shape[2]))
    return torch.cat([components.transpose(1, 2), means[:, None]], dim=1)


@BOTH
@pytest.mark.parametrize(("channels", "side"), [(64, 28), (512, 10), (67, 31)])
def test_sums_are_those_of_float64(channels: int, side: int, dtype: torch.dtype) -> None:
    maps = maps_of(4, channels, side, dtype)
    weights = torch.randn((channels, side * side, 5), generator=torch.Generator().manual_seed(1))
    assert channels_last.supports(maps)
    sums = projected(maps, weights)
    exact = torch.einsum("bcd,cdp->bpc", maps.double(), weights.double())
    torch.testing.assert_close(sums[:, :-1].double(), exact, rtol=0, atol=1e-6 * float(exact.abs().max()))
    torch.testing.assert_close(sums[:, -1].double(), maps.double().mean(2), rtol=0, atol=1e-6)


@BOTH
def test_every_sum_has_one_order_with_one_rounding_for_each_step(dtype: torch.dtype) -> None:
    """The definition, position by position: a fused multiply-add is a product and sum in float64, rounded once (exact
    but for rare double roundings, so products are kept short here)."""
    rows, channels, side = 2, 64, 28
    maps = maps_of(rows, channels, side, dtype).mul(256).round().div(256).to(dtype)
    maps = maps.transpose(1, 2).contiguous().transpose(1, 2)
    weights = torch.randn((channels, side * side, 3), generator=torch.Generator().manual_seed(1)).mul(64).round() / 64
    values, axes = maps.transpose(1, 2).double().numpy(), weights.permute(1, 2, 0).double().numpy()
    expected = np.zeros((rows, 4, channels), np.float32)
    for start in range(0, side * side, channels_last.TILE):
        sums = np.zeros((rows, 4, channels), np.float32)
        for position in range(start, min(side * side, start + channels_last.TILE)):
            row = values[:, position, None]
            factors = np.concatenate([axes[position], np.ones((1, channels))])
            sums = (sums.astype(np.float64) + row * factors).astype(np.float32)
        expected += sums
    expected[:, -1] /= np.float32(side * side)
    assert np.array_equal(projected(maps, weights).numpy(), expected)


@BOTH
@pytest.mark.parametrize("components", [1, 5, 20])
def test_channels_between_vectors_and_images_between_groups(components: int, dtype: torch.dtype) -> None:
    """Every channel and image has the bits that it has alone: blocks of channels overlap where their number is odd, and
    groups of images are not full."""
    maps = maps_of(7, 83, 26, dtype)
    weights = torch.randn((83, 26 * 26, components), generator=torch.Generator().manual_seed(1))
    together = projected(maps, weights)
    for image in range(len(maps)):
        alone = projected(maps[image : image + 1], weights)
        assert torch.equal(alone[0], together[image])
    for channels in (slice(0, 64), slice(19, 83)):
        some = maps[:, channels].transpose(1, 2).contiguous().transpose(1, 2)
        assert torch.equal(projected(some, weights[channels]), together[:, :, channels])


@pytest.mark.parametrize("channels", [16, 64, 83])
def test_packed_weights_come_back(channels: int) -> None:
    weights = torch.randn((channels, 9, 5), generator=torch.Generator().manual_seed(1))
    for some in (slice(None), slice(3, 10), slice(channels - 5, channels + 9)):
        assert torch.equal(unpack(pack(weights), channels, some), weights[some])


@BOTH
def test_several_threads_give_the_same_bits(dtype: torch.dtype) -> None:
    maps, weights = maps_of(7, 64, 28, dtype), torch.randn((64, 784, 5), generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    try:
        of_threads = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            of_threads.append(projected(maps, weights))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(of_threads[0], of_threads[1])
    assert torch.equal(of_threads[0], of_threads[2])


def test_offsets_are_subtracted_and_means_divided_as_torch_does_it() -> None:
    maps = maps_of(5, 83, 26, torch.float32)
    weights, offsets = torch.randn((83, 676, 5)), torch.randn((83, 5))
    components, means = channels_last.project(maps, pack(weights), offsets)
    products = channels_last.project(maps, pack(weights), torch.zeros_like(offsets))[0]
    assert torch.equal(components, products - offsets)
    ones = channels_last.project(maps, torch.ones_like(pack(weights)), torch.zeros_like(offsets))[0]
    assert torch.equal(means, ones[:, :, 0] / 676)


def test_infinities_and_nan_come_through() -> None:
    maps = maps_of(3, 64, 28, torch.bfloat16)
    maps[0, 3, 100], maps[1, 5, 7] = float("nan"), float("inf")
    components, means = projecting(64, 784).project(maps)
    bad = ~torch.isfinite(components).all(2) | ~torch.isfinite(means)
    assert bad.nonzero().tolist() == [[0, 3], [1, 5]]


@pytest.mark.parametrize(
    ("maps", "why"),
    [
        (torch.zeros(2, 64, 784), "positions lie in a row"),
        (maps_of(2, 32, 60, torch.float32), "few channels"),
        (maps_of(2, 64, 7, torch.float32), "small maps"),
        (maps_of(2, 64, 28, torch.float16), "another precision"),
        (maps_of(2, 128, 28, torch.float32)[:, ::2], "every second channel"),
        (torch.zeros(2, 60_000, 1), "one position"),
    ],
)
def test_other_maps_are_not_for_the_loop(maps: Tensor, why: str) -> None:
    assert not channels_last.supports(maps), why


def test_without_numba_maps_are_turned_round(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, plan = maps_of(3, 64, 28, torch.bfloat16), projecting(64, 784)
    by_loop = plan.project(maps)
    assert compiled.version().startswith("numba ")
    for module in (channels_last, compiled):
        monkeypatch.setattr(module, "has_numba", lambda: False)
    assert compiled.version() == "none"
    for mine, others in zip(plan.project(maps), by_loop, strict=True):
        torch.testing.assert_close(mine, others, rtol=0, atol=2e-5)


def test_small_maps_do_not_load_the_compiler() -> None:
    program = (
        "import sys, torch\n"
        "from tests.statistics.helpers import projecting\n"
        "maps = torch.randn(2, 32, 28, 28).contiguous(memory_format=torch.channels_last).flatten(2)\n"
        "projecting(32, 784).project(maps)\n"
        "assert 'numba' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
