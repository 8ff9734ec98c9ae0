"""Batches that fit, and memory that runs out: once more on an empty device, then the key that would do."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from pcace_dist.errors import JobError
from pcace_dist.models import device
from pcace_dist.models.device import (
    Footprint,
    choose_batch,
    footprint,
    is_out_of_memory,
    once_more,
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
    assert once_more(run, CPU, 32, before=lambda: order.append("emptied")) == "done"
    assert run.calls == 2
    assert order == ["emptied"]


@pytest.mark.parametrize("error", ERRORS)
def test_out_of_memory_twice_names_compute_batch_and_what_would_do(error: BaseException) -> None:
    run = Failing(2, error)
    with pytest.raises(JobError, match=r"^compute\.batch 32: memory .* runs out.*use compute\.batch: 16 or less"):
        once_more(run, CPU, 32)
    assert run.calls == 2


def test_other_errors_are_not_tried_again() -> None:
    run = Failing(1, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes"):
        once_more(run, CPU, 32)
    assert run.calls == 1
    assert not is_out_of_memory(ValueError("out of memory"))


def test_the_footprint_is_that_of_the_largest_activation() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.MaxPool2d(2), nn.Flatten())
    found = footprint(model, lambda: model(torch.zeros(1, 1, 8, 8)), lambda: 7)
    assert found == Footprint(4 * 64 * 4, 7)


def test_the_batch_is_a_power_of_two_within_memory_and_cache() -> None:
    assert choose_batch(Footprint(1000, 0), CPU, 8 << 30) == 128
    assert choose_batch(Footprint(1000, 0), GPU, 8 << 30) == 256
    assert choose_batch(Footprint(2 << 20, 0), CPU, 8 << 30) == 16, "32 MiB an activation"
    assert choose_batch(Footprint(2 << 20, 0), GPU, 8 << 30) == 256
    assert choose_batch(Footprint(2 << 20, 0), GPU, 1 << 30) == 32
    assert choose_batch(Footprint(2 << 20, 1 << 30), CPU, 1 << 30) == 1, "the plan alone is too large: the smallest"


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
