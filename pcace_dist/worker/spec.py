"""What a worker must know about a job: plain, frozen, picklable. No pydantic, no Ray: it runs on a bare GPU box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pcace_dist.progress.logs import LogSettings

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import nn

    from pcace_dist.config.targets import Reduction, TargetSpec
    from pcace_dist.datasets.columns import DatasetSpec
    from pcace_dist.datasets.images import ImageSpec
    from pcace_dist.storage.files import Storage


@dataclass(frozen=True)
class StatisticSpec:
    """Settings of the statistic, as in the job file's section `statistics`."""

    estimator: str = "gram"
    components: int = 5
    knots: int = 9
    folds: int = 16
    pilot: int = 2048
    scale: str = "pixel"
    penalty: float = 0.3


@dataclass(frozen=True)
class WorkSpec:
    """Everything a worker needs besides the plan and its units.

    layers: resolved names in model order. layouts: what the job says of some of them. model_output: which part of what
    the model returns are its outputs. batch: None where the pilot is to choose it. python_path: put in front of
    sys.path, so that `module:function` factories import on every node. flush_seconds: the longest time between two
    attempts. memory: bytes that the next attempt may take up before it is written; None: a share of what is free. kept:
    the columns that are kept beside the codes; None where no codes are kept. base: the run that is extended. plan: the
    run whose plan is used. log: how the worker's process writes its log lines.
    """

    dataset: DatasetSpec
    images: ImageSpec
    storage: Storage
    factory: str
    kwargs: Mapping[str, Any]
    weights: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layers: tuple[str, ...]
    targets: tuple[TargetSpec, ...]
    statistics: StatisticSpec
    output: str
    layouts: Mapping[str, str] = field(default_factory=dict)
    model_output: str | int | None = None
    reduction: Reduction | None = None
    batch: int | None = None
    precision: str = "auto"
    decode: str = "auto"
    exact: str = "strict"
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    flush_seconds: float = 600.0
    memory: int | None = None
    kept: pa.Schema | None = None
    base: str | None = None
    plan: str | None = None
    python_path: tuple[str, ...] = field(default=())
    log: LogSettings = field(default=LogSettings())

    def load_model(self) -> nn.Module:
        """The model, built and filled as the job says. Raises ModelError."""
        from pcace_dist.models.load import load_model

        return load_model(
            self.factory,
            self.kwargs,
            self.weights,
            seed=self.seed,
            read=self.storage.read_bytes,
            output=self.model_output,
            reduction=self.reduction,
            python_path=self.python_path,
        )


@dataclass(frozen=True)
class CodesSpec:
    """Everything a worker needs to rank from kept codes: `codes` is the run that kept them, `output` this run's."""

    codes: str
    output: str
    storage: Storage
    penalty: float = 0.3
    knots_from: str = "plan"
    threads: int = 1
    memory: int | None = None
    log: LogSettings = field(default=LogSettings())
