"""Small runs use threads of the driver's process. Here: which runs are small enough, and what their workers share.

Starting Ray, and importing in every worker what the driver has imported, takes longer than a small run. The price: an
image that ends the process ends the run, not one worker. So only the first start of a run uses threads; the same
command after that goes on with Ray (docs/protocol.md, item 8). No Ray.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import nn

from pcace_dist.models.in_memory import copy_of
from pcace_dist.worker.pilot_cache import PilotCache

if TYPE_CHECKING:
    from pcace_dist.config.job import Job
    from pcace_dist.datasets.listing import Listing

ROWS = 4096  # the most rows of such a run's data set
MODEL_BYTES = 512 << 20  # the most bytes of parameters and buffers; every worker has a copy


@dataclass(frozen=True, eq=False)
class SharedModel:
    """What workers that are threads of one process share: their number, the loaded model, and what the pilot forwarded.

    No worker runs `model` itself: each takes a copy, even where the factory shares parts between its models.
    """

    workers: int
    model: nn.Module
    pilot_cache: PilotCache = field(default_factory=PilotCache)

    def model_copy(self) -> nn.Module:
        return copy.deepcopy(self.model)


def share_model(job: Job, listing: Listing, model: nn.Module, *, any_size: bool = False) -> SharedModel | None:
    """What the workers share where the run can use threads; None where it needs Ray.

    It can use threads where the workers need only CPUs, `workers.min` of them fit this machine's cores, data set and
    model are small (or `any_size`), and the model can be copied.
    """
    workers = job.workers
    if workers.gpus or workers.resources or workers.memory is not None:
        return None
    count = min(workers.max, most_threads(workers.cpus))
    small = listing.rows <= ROWS and model_bytes(model) <= MODEL_BYTES
    if count < max(1, workers.min) or not (small or any_size):
        return None
    return None if copy_of(model) is None else SharedModel(count, model)


def model_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *model.buffers()])


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def most_threads(cpus: float) -> int:
    """How many workers with so many CPUs each this machine has cores for; 0 where there are too few for one."""
    return int(cores() / max(1.0, cpus))
