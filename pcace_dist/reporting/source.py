"""Everything that a report reads: the run's tables, its job, plan and model. Arrays come out; no pictures, no HTML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import nn

from pcace_dist.artifacts.checked import parsing
from pcace_dist.artifacts.reading.class_names import ClassNames
from pcace_dist.artifacts.reading.rows import dataset_again, id_of_rows
from pcace_dist.artifacts.run import Run, open_run
from pcace_dist.config.choice import choose, layer_names
from pcace_dist.config.job import Job, read_job
from pcace_dist.config.resolve import images_of, storage_of, weights_of
from pcace_dist.config.targets import TargetSpec, reduction_of
from pcace_dist.datasets.columns import DatasetSpec
from pcace_dist.datasets.images import ImageSpec
from pcace_dist.datasets.listing import Listing, list_dataset
from pcace_dist.errors import ModelError, UserError
from pcace_dist.models import layouts
from pcace_dist.models.load import load_model, weights_digest
from pcace_dist.models.source import code_digest
from pcace_dist.statistics.group_accumulator import RowCodes
from pcace_dist.statistics.plan import Plan
from pcace_dist.storage.files import Storage

Floats: TypeAlias = npt.NDArray[np.float64]

NUMBERS = (
    "score",
    "score_low",
    "score_high",
    "score_first_component",
    "pearson",
    "mean_activation",
    "clamped",
    "support",
    "rank",
    "rank_low",
    "rank_high",
    "layer_rank",
    "effect",
    "effect_low",
    "effect_high",
    "effect_rank",
    "effect_rank_low",
    "effect_rank_high",
)


@dataclass(frozen=True)
class Ranking:
    """rankings.parquet as blocks: for each target and group, a block has every channel of every layer, in order.
    names: of the classes."""

    targets: tuple[str, ...]
    groups: tuple[Any, ...]
    layers: tuple[tuple[str, int], ...]
    table: pa.Table
    names: ClassNames = field(default=ClassNames())

    @property
    def channels(self) -> int:
        """Channels of all layers."""
        return sum(count for _, count in self.layers)

    def block(self, target: int, group: int) -> pa.Table:
        """The rows of one target and group."""
        return self.table.slice((target * len(self.groups) + group) * self.channels, self.channels)

    def numbers(self, target: int, group: int, name: str) -> Floats:
        """One column of a block as float64 (channels,), NaN where null or where an older run has no such column."""
        if name not in self.table.column_names:
            return np.full(self.channels, np.nan)
        column = self.block(target, group)[name]
        return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)

    def given_plan(self, target: int, group: int, name: str) -> Floats:
        """The same, given the plan; of older runs, which have no others, the column itself."""
        given = f"{name}_given_plan"
        return self.numbers(target, group, given if given in self.table.column_names else name)

    def start(self, layer: str) -> int:
        """Where a layer's channels begin in a block."""
        names = [name for name, _ in self.layers]
        return sum(count for _, count in self.layers[: names.index(layer)])


@dataclass(frozen=True, eq=False)
class SampleTable:
    """sample.parquet: references, group index (-1: group not in the ranking), label (-1: none), targets."""

    table: pa.Table
    group: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    targets: Floats

    def __len__(self) -> int:
        return len(self.table)

    def codes(self, layer: str, components: int) -> npt.NDArray[np.uint8]:
        """Codes of one layer, uint8 (n, C, p)."""
        flat = self.table[f"codes/{layer}"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat, np.uint8).reshape(len(self), -1, components)

    def means(self, layer: str) -> npt.NDArray[np.int16]:
        """Fixed-point means of one layer, int16 (n, C)."""
        flat = self.table[f"means/{layer}"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat, np.int16).reshape(len(self), -1)

    @cached_property
    def shared(self) -> RowCodes:
        """Folds, target codes and fixed-point targets, in the form that the statistic needs."""

        def matrix(name: str) -> torch.Tensor:
            flat = self.table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            return torch.from_numpy(np.array(flat).reshape(len(self), -1))

        folds = torch.from_numpy(np.array(self.table["fold"].to_numpy()))
        return RowCodes(folds, matrix("target_codes"), matrix("target_fixed"))

    def refs(self, rows: npt.NDArray[np.int64]) -> list[tuple[str, int, int]]:
        """(file, row group, row) of some rows."""
        part = self.table.select(["file", "row_group", "row"]).take(pa.array(rows))
        return list(zip(*(part[name].to_pylist() for name in part.column_names), strict=True))


@dataclass(frozen=True)
class Origin:
    """The run that read the images: the run itself, or the one whose kept codes it ranks. `directory`: where it was
    started; its relative paths begin there."""

    run: Run
    job: Job
    directory: str

    @property
    def dataset(self) -> DatasetSpec:
        return dataset_again(self.job, self.run.manifest(), self.run.path, self.directory)

    @property
    def id(self) -> str | None:
        """The column that names its rows, if there is one."""
        return id_of_rows(self.job, self.run.manifest(), self.run.path, self.directory)


@dataclass(frozen=True)
class ReportSource:
    """A finished run, opened for a report. dataset, images: of its origin."""

    run: Run
    origin: Origin
    summary: Mapping[str, Any]
    job: Job
    plan: Plan
    ranking: Ranking
    exemplars: pa.Table | None
    sample: SampleTable | None
    transforms: pa.Table | None
    dataset: DatasetSpec
    images: ImageSpec
    targets: tuple[TargetSpec, ...]

    @property
    def storage(self) -> Storage:
        """Where the images and the weights lie."""
        return self.origin.run.storage

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the model's input images."""
        facts: dict[str, Any] = dict(self.plan.facts)
        height, width = facts["image_shape"]
        return int(height), int(width)

    @property
    def groups_are_labels(self) -> bool:
        """Whether a group is a class."""
        return self.job.group_by is not None and self.job.group_by == self.origin.job.dataset.label

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the model's input images."""
        return (self.origin.job.model.input.image_channels, *self.image_shape)

    @cached_property
    def listing(self) -> Listing:
        """The data set as it is now. Raises DatasetError where it is gone."""
        return list_dataset(self.dataset, self.storage)

    def load_model(self) -> nn.Module:
        """The run's model, on the CPU. Raises ModelError where the weights have changed since the run."""
        job, directory = self.origin.job, self.origin.directory
        settings = job.model
        model = load_model(
            settings.factory,
            settings.kwargs,
            weights_of(job, directory),
            seed=job.compute.seed,
            read=self.storage.read_bytes,
            output=settings.output,
            reduction=reduction_of(job.targets),
            python_path=(directory,),  # factories beside the job, from wherever the report is asked for
        )
        facts: dict[str, Any] = dict(self.plan.facts)
        if weights_digest(model) != facts["weights"]:
            raise ModelError(f"model.weights {settings.weights}: are not the weights that this run ranked")
        layouts.keep([model], facts.get("channel_axes", {}))
        return model

    def is_of_todays_code(self, model: nn.Module) -> bool:
        """Whether the model's code is the same as in the run; True for runs that have not recorded it."""
        code = code_digest(model, self.origin.job.model.factory)
        return bool(self.origin.run.manifest().get("code", code) == code)

    def weight_norms(self, layer: str) -> list[float | None]:
        """L2 norm of each channel's weights."""
        facts: dict[str, Any] = dict(self.plan.facts)
        norms: list[float | None] = facts["weight_norms"][layer]
        return norms


def open_report_source(path: str, *, layers: tuple[str, ...] | None = None) -> ReportSource:
    """Open a finished run, local or s3://. `layers`: only these (names or globs). Raises UserError."""
    with parsing(path):
        return _opened(path, layers)


def _opened(path: str, layers: tuple[str, ...] | None) -> ReportSource:
    itself = _origin_at(path)
    run, job = itself.run, itself.job
    origin = _origin_of(itself)
    plan = Plan.from_bytes(run.plan_bytes(), digest=run.plan)
    ranking = _ranking(run, plan, layers)
    targets = job.targets
    return ReportSource(
        run=run,
        origin=origin,
        summary=run.summary,
        job=job,
        plan=plan,
        ranking=ranking,
        exemplars=origin.run.exemplars(),
        sample=_sample(run, ranking),
        transforms=run.transforms(),
        dataset=origin.dataset,
        images=images_of(origin.job),
        targets=targets,
    )


def _origin_at(path: str) -> Origin:
    job = read_job(open_run(path).job_text(), name=f"{path}/job.yaml")
    run = open_run(path, storage=storage_of(job))
    return Origin(run, job, run.directory)


def _origin_of(itself: Origin) -> Origin:
    """Where the run whose codes were ranked is gone, the run itself: it has no exemplars."""
    url = itself.run.summary.get("from_codes")
    try:
        return itself if url is None else _origin_at(url)
    except UserError:
        return itself


def _ranking(run: Run, plan: Plan, patterns: tuple[str, ...] | None) -> Ranking:
    names = [layer.name for layer in plan.layers]
    shown = choose("layer", patterns, names, layer_names, where=run.path)
    table = run.table("rankings.parquet", filters=None if patterns is None else [("layer", "in", shown)])
    layers = tuple((layer.name, layer.channels) for layer in plan.layers if layer.name in shown)
    channels = sum(count for _, count in layers)
    firsts = table.select(["target", "group"]).take(pa.array(np.arange(0, len(table), channels)))
    targets = tuple(dict.fromkeys(firsts["target"].to_pylist()))
    groups = tuple(firsts["group"].to_pylist()[: len(firsts) // len(targets)])
    return Ranking(targets, groups, layers, table, run.names)


def _sample(run: Run, ranking: Ranking) -> SampleTable | None:
    table = run.sample()
    if table is None:
        return None
    index = {group: position for position, group in enumerate(ranking.groups)}
    group = np.array([index.get(value, -1) for value in table["group"].to_pylist()], np.int64)
    label = np.array([-1 if value is None else value for value in table["label"].to_pylist()], np.int64)
    flat = table["targets"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return SampleTable(table, group, label, np.asarray(flat, np.float64).reshape(len(table), -1))
