"""What a worker must know about a job: its sections, and what was resolved. Frozen and picklable; no Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pcace_dist.progress.logs import LogSettings

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import nn

    from pcace_dist.config.sections import Compute, Effect, Model, Statistics
    from pcace_dist.config.targets import Reduction, TargetSpec
    from pcace_dist.datasets.columns import DatasetSpec
    from pcace_dist.datasets.images import ImageSpec
    from pcace_dist.datasets.loader import LoaderOptions
    from pcace_dist.datasets.sections import Limits
    from pcace_dist.storage.files import Storage


@dataclass(frozen=True)
class WorkSpec:
    """Everything a worker needs besides the plan and its units.

    The job's sections as they are, but for what was resolved: absolute paths in `dataset` and `model.weights`, and in
    `statistics` and `compute.batch` the settings of the plan where one is given. layers: resolved names in model order.
    from pcace_dist.config.sections import Compute, Effect, Model, Statistics
    from pcace_dist.config.targets import Reduction, TargetSpec
    """

    dataset: DatasetSpec
    model: Model
    limits: Limits
    statistics: Statistics
    compute: Compute
    storage: Storage
    targets: tuple[TargetSpec, ...]
    output: str
    effect: Effect | None = None
    layers: tuple[str, ...] = ()
    layouts: Mapping[str, str] = field(default_factory=dict)
    reduction: Reduction | None = None
    threads: int = 1
    device: str = "cpu"
    flush_seconds: float = 600.0
    kept: pa.Schema | None = None
    base: str | None = None
    plan: str | None = None
    python_path: tuple[str, ...] = field(default=())
    log: LogSettings = field(default=LogSettings())

    @property
    def images(self) -> ImageSpec:
        """How images are decoded."""
        from pcace_dist.datasets.images import ImageSpec

        return ImageSpec(**vars(self.model.input), limits=self.limits)

    def loader_options(self, batch_size: int, hash_name: str) -> LoaderOptions:
        """How this job's rows are read, in batches of `batch_size`, with fold keys by the plan's hash."""
        from pcace_dist.datasets.loader import LoaderOptions
        from pcace_dist.statistics.folds import fold_hash, key_of_value

        return LoaderOptions(
            self.dataset,
            self.images,
            self.storage,
            batch_size=batch_size,
            threads=self.threads,
            fold_bytes=fold_hash(hash_name),
            fold_value=key_of_value,
        )

    def load_model(self) -> nn.Module:
        """The model, built and filled as the job says. Raises ModelError."""
        from pcace_dist.models.load import load_model

        return load_model(
            self.model.factory,
            self.model.kwargs,
            self.model.weights,
            seed=self.compute.seed,
            read=self.storage.read_bytes,
            output=self.model.output,
            reduction=self.reduction,
            python_path=self.python_path,
        )


@dataclass(frozen=True)
class CodesSpec:
    """Everything a worker needs to rank from kept codes: `codes` is the run that kept them, `output` this run's."""

    codes: str
    output: str
    statistics: Statistics
    storage: Storage
    threads: int = 1
    log: LogSettings = field(default=LogSettings())
