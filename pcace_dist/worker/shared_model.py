"""A run of the model by threads of the driver's process: which runs are small enough, and what the workers share.

A Ray that starts, and workers that import what the driver has imported, take longer than a small run itself. What is
given up is that a row which ends its process costs a worker only: so it is done on a first start alone; the same
command goes on on Ray (docs/protocol.md, item 8). No Ray.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field
from inspect import getclosurevars
from types import FunctionType
from typing import TYPE_CHECKING

from torch import nn

from pcace_dist.worker.pilot_cache import Leftovers

if TYPE_CHECKING:
    from pcace_dist.config.job import Job
    from pcace_dist.datasets.listing import Listing

ROWS = 4096  # of the data set
MODEL_BYTES = 512 << 20  # of parameters and buffers; every worker has a copy


@dataclass(frozen=True, eq=False)
class Together:
    """What workers that are threads of one process share: how many they are, and the loaded model, which none of them
    runs: each takes a copy, whatever the factory shares between its models; and what the pilot leaves."""

    workers: int
    model: nn.Module
    leftovers: Leftovers = field(default_factory=Leftovers)

    def model_copy(self) -> nn.Module:
        return copy.deepcopy(self.model)


def together(job: Job, listing: Listing, model: nn.Module, *, any_size: bool = False) -> Together | None:
    """For a run that is small enough, by what the job, the listing and the model are; else None.

    The job asks for processors alone, and for no more workers (`workers.min`) than there are cores for. `any_size`: the
    run need not be small.
    """
    workers = job.workers
    if workers.gpus or workers.resources or workers.memory is not None:
        return None
    count = min(workers.max, int(cores() / max(1.0, workers.cpus)))
    small = listing.rows <= ROWS and _nbytes(model) <= MODEL_BYTES
    if count < max(1, workers.min) or not (small or any_size):
        return None
    found = Together(count, model)
    try:
        copied = found.model_copy()
    except Exception:  # a model of one's own may hold anything
        return None
    return None if _leads_back(copied, model) else found


def _leads_back(copied: nn.Module, model: nn.Module) -> bool:
    """Whether a function of the copy (a replaced forward, a hook) holds modules of the model: functions are not copied.
    Such a copy would run what it was copied from."""
    own = {id(module) for module in model.modules()}
    values = [value for module in copied.modules() for value in vars(module).values()]
    functions = [one for value in values for one in (value.values() if isinstance(value, dict) else [value])]
    return any(id(getattr(held, "__self__", held)) in own for one in functions for held in _held_by(one))


def _held_by(function: object) -> list[object]:
    """What a function written in Python holds besides its arguments."""
    if not isinstance(function, FunctionType):
        return []
    variables = getclosurevars(function).nonlocals.values()
    return [*variables, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _nbytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *model.buffers()])
