"""Maps of every layout and precision as float32 by channel: exactly what they are, whatever lies beside them."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from pcace_dist.statistics.maps import by_channel
from pcace_dist.statistics.plan import LayerPlan
from tests.statistics.helpers import projecting

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def maps_of(shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format, seed: int = 0) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return values.contiguous(memory_format=layout).flatten(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(5, 8, 7, 7), (1, 6, 3, 5), (3, 7, 4, 4), (2, 1, 5, 5), (4, 6, 1, 1), (2, 1, 1, 1)])
def test_every_layout_and_precision_is_widened_exactly(
    shape: tuple[int, ...], layout: torch.memory_format, dtype: torch.dtype
) -> None:
    maps = maps_of(shape, dtype, layout)
    widened = torch.full(maps.shape, float("nan"))
    for channels, part in by_channel(maps):
        assert part.dtype == torch.float32
        widened[:, channels] = part
    assert torch.equal(widened, maps.float())


def test_special_values_come_through() -> None:
    values = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-40, 3e38, -1.0]
    maps = torch.tensor(values * 8).reshape(2, 8, 2, 2).bfloat16().contiguous(memory_format=torch.channels_last)
    for channels, part in by_channel(maps.flatten(2)):
        expected = maps.flatten(2).float()[:, channels]
        assert torch.equal(part.view(torch.int32), expected.contiguous().view(torch.int32))


def test_contiguous_float32_maps_are_not_copied() -> None:
    maps = maps_of((3, 4, 5, 5), torch.float32, torch.contiguous_format)
    ((_, part),) = by_channel(maps)
    assert part.data_ptr() == maps.data_ptr()


SIZES = [(64, 28), (32, 14), (512, 7), (7, 9)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("channels", "side"), SIZES)
def test_a_rows_codes_do_not_depend_on_the_rows_beside_it(
    channels: int, side: int, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    """Bit for bit, whatever the others are and wherever in the batch the row lies."""
    plan = projecting(channels, side * side)
    rows = maps_of((16, channels, side, side), dtype, layout)
    other = maps_of((16, channels, side, side), dtype, layout, seed=1)
    expected = plan.project(rows)
    for row, place in itertools.product((0, 7, 15), (0, 5, 15)):
        mixed = other.clone(memory_format=torch.preserve_format)
        mixed[place] = rows[row]
        assert mixed.stride() == rows.stride()
        for whole, part in zip(expected, plan.project(mixed), strict=True):
            assert torch.equal(part[place], whole[row])


def test_the_product_is_that_of_float64() -> None:
    plan: LayerPlan = projecting(64, 196)
    for layout, dtype in itertools.product(LAYOUTS, (torch.float32, torch.bfloat16)):
        maps = maps_of((8, 64, 14, 14), dtype, layout)
        components, means = plan.project(maps)
        exact = torch.einsum("bcd,cdp->bcp", maps.double(), plan.weights.double()) - plan.offsets.double()
        torch.testing.assert_close(components.double(), exact, rtol=0, atol=2e-5)
        torch.testing.assert_close(means.double(), maps.double().mean(2), rtol=0, atol=1e-6)
