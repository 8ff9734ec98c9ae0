from __future__ import annotations

import mmap

import pytest
import torch

from pcace_dist.statistics import pages


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_zeros_of_any_size_can_be_written_to(dtype: torch.dtype) -> None:
    for shape in ((0,), (3, 5), (300, 1000)):
        tensor = pages.zeros(shape, dtype)
        assert tensor.shape == shape and tensor.dtype == dtype and tensor.is_contiguous() and not tensor.any()
        tensor.add_(7)
        assert (tensor == 7).all()


def test_pages_go_back_with_the_last_view_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[int] = []

    class Counted(mmap.mmap):
        def __del__(self) -> None:
            alive.pop()

    def mapped(*arguments: int, **settings: int) -> Counted:
        alive.append(1)
        return Counted(*arguments, **settings)

    monkeypatch.setattr(mmap, "mmap", mapped)
    small, large = pages.zeros((10,), torch.uint8), pages.zeros((pages.LEAST_BYTES,), torch.uint8)
    assert len(alive) == 1 and len(small) == 10
    part = large[5:10]
    del large
    assert len(alive) == 1 and part.sum() == 0
    del part
    assert not alive


def test_without_a_mapping_it_is_ordinary_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: int, **__: int) -> None:
        raise OSError("too many mappings")

    monkeypatch.setattr(mmap, "mmap", refused)
    assert pages.zeros((1 << 20,), torch.int32).sum() == 0


def test_converted_keeps_the_integers() -> None:
    tensor = torch.arange(100_000, dtype=torch.int32)
    assert pages.converted(tensor, torch.int32) is tensor
    assert torch.equal(pages.converted(tensor, torch.int64), tensor.long())
