"""The device's memory: how large a batch may be, what happens when memory runs out, how results come back without
waiting.

Knows no data sets and no Ray. The pilot chooses the batch size once and the plan freezes it, because the bits of
results depend on it. The choice depends on the memory that the machine has, never on what is free at the moment: two
first starts of a job choose the same.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pcace_dist.errors import JobError
from pcace_dist.models.tap import watched

log = logging.getLogger(__name__)

Result = TypeVar("Result")

LARGEST_BATCH = {"cpu": 128, "cuda": 256}
# Bytes. On CPUs, batches with a larger activation were slower for every network that was measured (docs/precision.md):
# the next layer then finds little of the activation in the caches.
CPU_ACTIVATION = 32 << 20
ACTIVATIONS_AT_ONCE = 6  # input and output of a layer, a shortcut, and the tap's float32 copy of a bfloat16 map
SHARE_OF_MEMORY = 0.5  # of a worker's memory, for activations and the plan

_NO_MEMORY = ("can't allocate memory", "out of memory", "bad_alloc", "STATUS_ALLOC_FAILED")
_CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # where Ray looks, too


@dataclass(frozen=True)
class Footprint:
    """Bytes of memory. `largest`: one image's largest activation. `plan`: the plan's tensors for all tapped layers.

    Where the device decodes images: `waiting`, for each image of a batch, the bytes of decoded images that wait on the
    device; `decoding`, the bytes of the decoder, whatever the batch size.
    """

    largest: int
    plan: int
    waiting: int = 0
    decoding: int = 0


def footprint(model: nn.Module, run: Callable[[], object], plan_bytes: Callable[[], int]) -> Footprint:
    """Calls `run`, a pass over one image, and measures the output of every module of `model`; then `plan_bytes`."""
    largest = 0

    def look(_: str, output: Any) -> None:
        nonlocal largest
        for part in output if isinstance(output, tuple | list) else [output]:
            if isinstance(part, Tensor):
                largest = max(largest, part.numel() * part.element_size())

    with watched(dict(model.named_modules()), look):
        run()
    return Footprint(largest, plan_bytes())


def largest_batch(device: torch.device) -> int:
    """The largest batch that compute.batch: auto chooses."""
    return LARGEST_BATCH.get(device.type, LARGEST_BATCH["cpu"])


def choose_batch(footprint: Footprint, device: torch.device, memory: int) -> int:
    """The largest power of two, up to 128 on CPUs and 256 on GPUs, with which activations and plan fit into half of
    `memory` bytes."""
    available = SHARE_OF_MEMORY * memory - footprint.plan - footprint.decoding
    bytes_per_image = footprint.largest * ACTIVATIONS_AT_ONCE + footprint.waiting
    batch = largest_batch(device)
    largest_activation = CPU_ACTIVATION if device.type == "cpu" else sys.maxsize
    while batch > 1 and (batch * footprint.largest > largest_activation or batch * bytes_per_image > available):
        batch //= 2
    return batch


def worker_memory(device: torch.device, threads: int) -> int:
    """Bytes that a worker may use. On a GPU: all of its memory. On a CPU: the share of the machine's (or container's)
    memory that its threads are of the cores. The same at every start on one kind of machine."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    import psutil  # imported here: models run without it

    total = min([psutil.virtual_memory().total, *_container_limits()])
    return total * threads // max(threads, os.cpu_count() or 1)


def _container_limits() -> list[int]:
    texts = [Path(name).read_text(encoding="ascii").strip() for name in _CONTAINER_LIMITS if Path(name).is_file()]
    return [int(text) for text in texts if text.isdigit()]  # "max": none


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU now. They vary: never make a choice by them that results depend on."""
    return int(torch.cuda.mem_get_info(device)[0])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out; torch's CPU allocator raises a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)


def empty(device: torch.device) -> None:
    """Give back what is cached on the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def retry_on_oom(
    run: Callable[[], Result], device: torch.device, batch: int, *, before: Callable[[], object] = lambda: None
) -> Result:
    """The result of `run`. If memory runs out: calls `before`, empties the device and tries once more.

    Raises JobError naming compute.batch if memory runs out again.
    """
    try:
        return run()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        log.warning("a batch of %d images ran out of memory; trying once more on an empty device", batch)
    before()  # outside of the except block: the error holds the pass's tensors
    empty(device)
    try:
        return run()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        advice = f"use compute.batch: {batch // 2} or less" if batch > 1 else "use smaller images or fewer layers"
        memory_owner = "this GPU" if device.type == "cuda" else "this machine"
        raise JobError(
            f"compute.batch {batch}: memory of {memory_owner} runs out, on an empty device too; {advice}, fewer "
            "workers on a machine, or machines with more memory (another batch is another job: give it an output of "
            "its own)"
        ) from None


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """Images, or any tensor, on the device. The copy to a GPU starts from pinned memory on a stream of its own, while
    another pass runs; the host does not wait. torch reuses the pinned memory only after the copy.

    A tensor that is on the GPU already is recorded as read by the current stream: its memory may belong to another one.
    """
    if device.type != "cuda":
        return images.to(device)
    current, beside = torch.cuda.current_stream(device), _copy_stream(device)
    if images.is_cuda:
        images.record_stream(current)
        return images
    with torch.cuda.stream(beside):
        moved = images.pin_memory().to(device, non_blocking=True)
    current.wait_stream(beside)
    moved.record_stream(current)  # its memory belongs to the copying stream
    return moved


_copy_streams: dict[torch.device, torch.cuda.Stream] = {}


def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    if device not in _copy_streams:
        _copy_streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return _copy_streams[device]


def to_host(*tensors: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """Begins to copy tensors to the host; calling the result waits for the copies. On CPUs nothing is copied."""
    if all(tensor.device.type != "cuda" for tensor in tensors):
        return lambda: tensors
    host = tuple(
        torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
        for tensor in tensors
    )
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(tensors[0].device))

    def wait() -> tuple[Tensor, ...]:
        copied.synchronize()
        return host

    return wait
