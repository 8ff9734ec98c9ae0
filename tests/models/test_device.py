"""Batches that fit, and memory that runs out: once more on an empty device, then the key that would do."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import psutil
import pytest
import torch
from torch import Tensor, nn

from pcace_dist.errors import JobError
from pcace_dist.models import device
from pcace_dist.models.device import (
    Footprint,
    choose_batch,
    footprint,
    is_out_of_memory,
    retry_on_oom,
    to_device,
    worker_memory,
)

CPU = torch.device("cpu")
GPU = torch.device("cuda")
ALLOCATOR = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
ERRORS = [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), ALLOCATOR]


class Failing:
    """Runs out of memory the first `times` times."""

    def __init__(self, times: int, error: BaseException) -> None:
        self.calls, self._times, self._error = 0, times, error

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self._times:
            raise self._error
        return "done"


@pytest.mark.parametrize("error", ERRORS)
def test_out_of_memory_is_tried_once_more_on_an_empty_device(error: BaseException) -> None:
    run, order = Failing(1, error), list[str]()
    assert retry_on_oom(run, CPU, 32, before=lambda: order.append("emptied")) == "done"
    assert run.calls == 2
    assert order == ["emptied"]


@pytest.mark.parametrize("error", ERRORS)
def test_out_of_memory_twice_names_compute_batch_and_what_would_do(error: BaseException) -> None:
    run = Failing(2, error)
    with pytest.raises(JobError, match=r"^compute\.batch 32: memory .* runs out.*use compute\.batch: 16 or less"):
        retry_on_oom(run, CPU, 32)
    assert run.calls == 2


def test_other_errors_are_not_tried_again() -> None:
    run = Failing(1, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes"):
        retry_on_oom(run, CPU, 32)
    assert run.calls == 1
    assert not is_out_of_memory(ValueError("out of memory"))


def test_the_footprint_is_that_of_the_largest_activation() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.MaxPool2d(2), nn.Flatten())
    measured = footprint(model, lambda: model(torch.zeros(1, 1, 8, 8)), lambda: 7)
    assert measured == Footprint(4 * 64 * 4, 7)


def test_the_batch_is_a_power_of_two_within_memory_and_cache() -> None:
    assert choose_batch(Footprint(1000, 0), CPU, 8 << 30) == 128
    assert choose_batch(Footprint(1000, 0), GPU, 8 << 30) == 256
    assert choose_batch(Footprint(2 << 20, 0), CPU, 8 << 30) == 16, "32 MiB an activation"
    assert choose_batch(Footprint(2 << 20, 0), GPU, 8 << 30) == 256
    assert choose_batch(Footprint(2 << 20, 0), GPU, 1 << 30) == 32
    assert choose_batch(Footprint(2 << 20, 1 << 30), CPU, 1 << 30) == 1, "the plan alone is too large: the smallest"


def test_images_that_wait_on_a_gpu_that_decodes_them_take_their_part() -> None:
    image = 12 * 150_528  # as many batches of 224 x 224 pixels
    assert choose_batch(Footprint(2 << 20, 0, image, 0), GPU, 4 << 30) == 128
    assert choose_batch(Footprint(2 << 20, 0, 0, 0), GPU, 6 << 30) == 256
    assert choose_batch(Footprint(2 << 20, 0, image, 0), GPU, 6 << 30) == 128, "3.3 of 3 GiB for 256"
    assert choose_batch(Footprint(2 << 20, 0, 0, 1 << 20), GPU, 6 << 30) == 128, "the decoder's own"


class Device:
    """Stands for a tensor and writes down what is asked of it."""

    def __init__(self, *, is_cuda: bool) -> None:
        self.is_cuda, self.asked = is_cuda, list[str]()

    def pin_memory(self) -> Device:
        self.asked.append("pinned")
        return self

    def to(self, _: torch.device, *, non_blocking: bool) -> Device:
        self.asked.append(f"copied on {STREAMS[-1]}" if non_blocking else "waited for")
        return self

    def record_stream(self, stream: object) -> None:
        self.asked.append(f"read on {stream}")


STREAMS = ["current"]


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """CUDA's streams by name; what the current one waits for."""
    waits: list[str] = []

    class Stream(str):
        def wait_stream(self, other: str) -> None:
            waits.append(other)

    @contextlib.contextmanager
    def entered(stream: str) -> Iterator[None]:
        STREAMS.append(stream)
        yield
        STREAMS.pop()

    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream("current"))
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(device, "_copy_stream", lambda _: Stream("beside"))
    return waits


def test_a_copy_to_a_gpu_leaves_pinned_memory_on_a_stream_of_its_own(streams: list[str]) -> None:
    images = Device(is_cuda=False)
    assert id(to_device(cast(Tensor, images), GPU)) == id(images)
    assert images.asked == ["pinned", "copied on beside", "read on current"]
    assert streams == ["beside"], "the pass waits for the copy, the copy for no pass"


def test_what_was_decoded_on_the_gpu_is_not_copied_and_its_memory_waits_for_the_pass(streams: list[str]) -> None:
    images = Device(is_cuda=True)
    assert id(to_device(cast(Tensor, images), GPU)) == id(images)
    assert images.asked == ["read on current"] and streams == []


def test_on_processors_nothing_is_copied() -> None:
    images = torch.zeros((2, 3, 4, 4), dtype=torch.uint8)
    assert to_device(images, CPU) is images


def test_a_worker_counts_on_its_share_of_the_machine_and_not_on_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"total": 64 << 30, "available": 1})())
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(device, "_CONTAINER_LIMITS", ())
    assert worker_memory(CPU, 4) == 16 << 30
    assert worker_memory(CPU, 99) == 64 << 30


@pytest.mark.parametrize(("text", "expected"), [("8589934592\n", 8 << 30), ("max\n", 64 << 30)])
def test_a_container_limit_counts_where_there_is_one(
    text: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text(text)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"total": 64 << 30})())
    monkeypatch.setattr(device, "_CONTAINER_LIMITS", (str(limit), str(tmp_path / "absent")))
    assert worker_memory(CPU, os.cpu_count() or 1) == expected
