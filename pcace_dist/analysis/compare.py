"""What moved between two finished runs, or why they cannot be compared. Reads runs, writes nothing.

    facts of both runs -> comparable? -> rows side by side -> agreement of the rankings, movement of every channel

The arithmetic is in `agreement` and `movement`; this module decides which noise a comparison has (docs/comparison.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pcace_dist.analysis.agreement import PERSISTENCE, TOP, Agreement, agreement
from pcace_dist.analysis.effect_movement import comparable, effect_columns
from pcace_dist.analysis.movement import Difference, Side, difference, false_discovery
from pcace_dist.artifacts.checked import parsing
from pcace_dist.artifacts.jackknife import by_fold
from pcace_dist.artifacts.reading.class_names import ClassNames
from pcace_dist.artifacts.run import Run
from pcace_dist.config.choice import Wanted
from pcace_dist.config.job import Job
from pcace_dist.config.resolve import absolute
from pcace_dist.datasets.groups import name_of
from pcace_dist.errors import UserError
from pcace_dist.statistics.folds import BLAKE2B

Floats: TypeAlias = npt.NDArray[np.float64]
Verdict = Literal["same", "moved", "not comparable"]

LEVEL = 0.05
KEYS = ("target", "group", "layer", "channel")
NOISE = "plan_noise"  # a column of jackknife.parquet
MATCHED = "matched"  # a column of rankings whose channels were reordered to match another network's
SHOWN = 6  # names in a reason before it says how many more


@dataclass(frozen=True)
class ComparisonSettings:
    """Settings of a comparison. level: false discovery rate. tolerance, effect_tolerance: smaller changes of a score or
    an effect do not count.

    target, group, layer: only these. across_data: the two data sets are samples from one source, so that runs over them
    may be compared.
    """

    top: int = TOP
    level: float = LEVEL
    tolerance: float = 0.0
    effect_tolerance: float = 0.0
    persistence: float = PERSISTENCE
    target: Wanted = None
    group: Wanted = None
    layer: Wanted = None
    across_data: bool = False

    @property
    def chosen(self) -> dict[str, Wanted]:
        """What is compared, as arguments of `Run.with_jackknife`."""
        return {"target": self.target, "group": self.group, "layer": self.layer}


@dataclass(frozen=True)
class RunFacts:
    """What a comparison reads from a run besides its ranking. files: key, size, version of every data file; source: the
    run that read the images (another run, if this one used its kept codes)."""

    path: str
    job: Job
    fingerprint: str
    weights: str
    plan: str
    data: str | None
    images: int
    files: frozenset[tuple[str, int, str]]
    source: str
    fold_hash: str

    @property
    def folds(self) -> tuple[int, str]:
        """What assigns an image to a fold: their number; and the column, or the hash of the image's bytes."""
        by = self.job.dataset.fold_by
        return self.job.statistics.folds, f"column {by}" if by else self.fold_hash

    @staticmethod
    def of(run: Run) -> RunFacts:
        with parsing(run.path):
            return RunFacts._of(run, run.summary, run.manifest())

    @staticmethod
    def _of(run: Run, summary: Mapping[str, Any], manifest: Mapping[str, Any]) -> RunFacts:
        if summary.get("exit_code") not in (0, 4):
            raise UserError(f"{run.path}: is not finished ({summary.get('outcome')}); see `pcace status {run.path}`")
        row_groups = (entry for unit in manifest["units"] for entry in unit["pieces"])
        return RunFacts(
            path=run.path,
            job=run.job,
            fingerprint=summary["fingerprint"],
            weights=manifest["weights"],
            plan=manifest["plan"],
            data=summary.get("data"),
            images=summary["images"],
            files=frozenset((p["key"], p["size"], p["version"]) for p in row_groups),
            source=summary.get("from_codes") or absolute(run.path),
            fold_hash=summary.get("fold_hash", BLAKE2B),
        )

    def to_json(self) -> dict[str, Any]:
        names = ("path", "fingerprint", "weights", "plan", "data", "images")
        return {name: getattr(self, name) for name in names} | {"files": len(self.files)}


@dataclass(frozen=True)
class Noise:
    """The noise in the difference of two runs: whether they are paired by fold, and the sizes of the two pilots (None
    where both runs have one plan)."""

    paired: bool
    pilots: tuple[int | None, int | None]


@dataclass(frozen=True)
class AgreementRow:
    """Agreement of one ranking; `layer` None: over all layers."""

    target: str
    group: Any
    layer: str | None
    agreement: Agreement


@dataclass(frozen=True, eq=False)
class Comparison:
    """The comparison of two runs. `channels` is comparison.parquet; `overall`: means over the rankings of all layers.

    reasons: why the runs are not comparable. notes: what else differs between them. names: of the classes, as the later
    run has them, or else the earlier one.
    """

    run_a: RunFacts
    run_b: RunFacts
    settings: ComparisonSettings
    verdict: Verdict
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    noise: Noise
    agreement: tuple[AgreementRow, ...]
    channels: pa.Table
    names: ClassNames = field(default=ClassNames())

    @property
    def overall(self) -> dict[str, float]:
        """Kendall, Spearman, overlap and rank-biased overlap: means over targets and groups, all layers together."""
        rows = [row.agreement for row in self.agreement if row.layer is None]
        names = ("kendall", "spearman", "overlap", "rbo")
        return {name: _mean([getattr(agreement, name) for agreement in rows]) for name in names}

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of channels judged and moved, and of each kind of movement among the moved."""
        moved = self.channels.filter(self.channels["moved"])
        kinds = moved["movement"].to_pylist()
        judged = len(self.channels) - self.channels["p_value"].null_count
        by_movement = {kind: kinds.count(kind) for kind in ("rose", "fell", "appeared", "died")}
        return {"channels": len(self.channels), "judged": judged, "moved": len(moved)} | by_movement | self._effects

    @property
    def _effects(self) -> dict[str, int]:
        """The numbers of channels whose effects were judged and moved."""
        if "effect_moved" not in self.channels.column_names:
            return {"effects_judged": 0, "effects_moved": 0}
        judged = len(self.channels) - self.channels["effect_p_value"].null_count
        return {"effects_judged": judged, "effects_moved": pc.sum(self.channels["effect_moved"]).as_py() or 0}

    def moved(self) -> list[dict[str, Any]]:
        """The channels that moved, the most significant first."""
        rows: list[dict[str, Any]] = self.channels.filter(self.channels["moved"]).to_pylist()
        return sorted(rows, key=lambda row: (row["p_value"], -abs(row["change"])))

    def to_json(self) -> dict[str, Any]:
        """The content of comparison.json; NaN as null."""
        content: dict[str, Any] = _no_nan(
            {
                "format_version": 1,
                "run_a": self.run_a.to_json(),
                "run_b": self.run_b.to_json(),
                "verdict": self.verdict,
                "reasons": list(self.reasons),
                "notes": list(self.notes),
                "settings": asdict(self.settings),
                "paired": self.noise.paired,
                "plan_noise_from_pilots": list(self.noise.pilots),
                "overall": self.overall,
                "counts": self.counts if len(self.channels) else {},
                "agreement": [
                    {"target": row.target, "group": row.group, "layer": row.layer} | asdict(row.agreement)
                    for row in self.agreement
                ],
            }
        )
        return content


def compare_runs(run_a: Run, run_b: Run, settings: ComparisonSettings | None = None) -> Comparison:
    """Compare two finished runs: what moved from `run_a` to `run_b`. Raises UserError for an unfinished run."""
    settings = settings or ComparisonSettings()
    a, b = RunFacts.of(run_a), RunFacts.of(run_b)
    tables = [run.with_jackknife(**settings.chosen) for run in (run_a, run_b)]
    reasons = [*_jobs_differ(a, b, settings), *_rankings_differ(tables[0], tables[1])]
    noise = noise_between(a, b)
    if reasons:
        return Comparison(a, b, settings, "not comparable", tuple(reasons), tuple(_notes(a, b)), noise, (), _EMPTY)
    names = run_b.names if run_b.names.names else run_a.names
    return compare_tables(a, b, tables[0], tables[1], noise, settings, names)


def compare_tables(
    run_a: RunFacts,
    run_b: RunFacts,
    table_a: pa.Table,
    table_b: pa.Table,
    noise: Noise,
    settings: ComparisonSettings,
    names: ClassNames,
) -> Comparison:
    """Compare two comparable rankings with pseudo-values (from `selected`)."""
    notes = [*_notes(run_a, run_b), *_groups_apart(table_a, table_b, names)]
    table_a, table_b = _common_groups(table_a, table_b)
    differences = difference(_side(table_a, noise.pilots[0]), _side(table_b, noise.pilots[1]), paired=noise.paired)
    channels = _side_by_side(table_a, table_b, differences, settings)
    effects = effect_columns(
        table_a,
        table_b,
        paired=noise.paired,
        level=settings.level,
        tolerance=settings.effect_tolerance,
        judged=comparable(run_a.job, run_b.job),
    )
    for name, column in effects.items():
        channels = channels.append_column(name, column)
    return Comparison(
        run_a=run_a,
        run_b=run_b,
        settings=settings,
        verdict="moved" if pc.any(channels["moved"]).as_py() else "same",
        reasons=(),
        notes=tuple(notes),
        noise=noise,
        agreement=tuple(_agreements(table_a, table_b, settings)),
        channels=channels,
        names=names,
    )


def noise_between(run_a: RunFacts, run_b: RunFacts) -> Noise:
    """The noise between two runs. Paired: they share images and assign folds alike. Different plans add noise, even
    with the same images."""
    paired = run_a.folds == run_b.folds and _share_images(run_a, run_b)
    if run_a.plan == run_b.plan:
        return Noise(paired, (None, None))
    pilots = [min(facts.job.statistics.pilot, max(1, facts.images)) for facts in (run_a, run_b)]
    return Noise(paired, (pilots[0], pilots[1]))


# -- comparable?


def _share_images(run_a: RunFacts, run_b: RunFacts) -> bool:
    """Whether the runs have a data file in common, or both are about the images of one run."""
    return run_a.source == run_b.source or bool(run_a.files & run_b.files)


def _jobs_differ(run_a: RunFacts, run_b: RunFacts, settings: ComparisonSettings) -> Iterator[str]:
    """Reasons why two runs estimate different things. Model, weights and input may differ: these are compared."""
    job_a, job_b = run_a.job, run_b.job
    must_agree: dict[str, tuple[object, object]] = {
        "data: dataset.filter": (job_a.dataset.filter, job_b.dataset.filter),
        "data: dataset.image": (job_a.dataset.image, job_b.dataset.image),
        "data: group_by": (job_a.group_by, job_b.group_by),
    }
    for name in ("estimator", "components", "knots", "tails", "knots_from", "scale", "penalty"):
        must_agree[f"statistics.{name}"] = (getattr(job_a.statistics, name), getattr(job_b.statistics, name))
    for key, (left, right) in must_agree.items():
        if left != right:
            yield f"{key} differs: {left!r} and {right!r}"
    are_apart = job_a.dataset.path != job_b.dataset.path and not _share_images(run_a, run_b)
    if are_apart and not settings.across_data:
        yield (
            f"data: dataset.path differs ({_listed(job_a.dataset.path)} and {_listed(job_b.dataset.path)}) and no "
            "file is the same; if both are samples from one source, say so with --across-data"
        )


def _rankings_differ(table_a: pa.Table, table_b: pa.Table) -> Iterator[str]:
    for column in ("target", "layer"):
        names_a, names_b = (pc.unique(table[column]).to_pylist() for table in (table_a, table_b))
        if set(names_a) != set(names_b):
            only = [name for name in names_a if name not in names_b], [name for name in names_b if name not in names_a]
            yield (
                f"{column}s differ: only in the first: {_listed(only[0])}; only in the second: {_listed(only[1])}; "
                f"--{column} compares one that both have"
            )
            return
    sizes = [dict(_channels(table)) for table in (table_a, table_b)]
    for layer, count in sizes[0].items():
        if count != sizes[1][layer]:
            yield f"layers differ: {layer} has {count} channels in the first and {sizes[1][layer]} in the second"
    if not set(_group_names(table_a)) & set(_group_names(table_b)):
        yield "data: the runs have no group in common"
    for name, table in (("first", table_a), ("second", table_b)):
        if table["rank"].null_count == len(table):
            yield f"statistics: no channel of the {name} is ranked (`pcace show` says why)"
        elif not np.isfinite(by_fold(table, "pseudo_values")).any():
            yield f"statistics: the {name} has no pseudo-values, so the errors of its scores are unknown"


def _notes(run_a: RunFacts, run_b: RunFacts) -> Iterator[str]:
    """Other differences between the runs, so that a change of the data is not mistaken for a change of the model."""
    yield "the same weights" if run_a.weights == run_b.weights else "other weights"
    if run_a.files == run_b.files or run_a.source == run_b.source:
        yield "the same data"
    else:
        added, removed = len(run_b.files - run_a.files), len(run_a.files - run_b.files)
        yield f"other data: {added} files added, {removed} removed, {len(run_a.files & run_b.files)} the same"
    if run_a.plan == run_b.plan:
        yield "the same plan"
    if run_a.job.model.factory != run_b.job.model.factory:
        yield f"other model.factory: {run_a.job.model.factory} and {run_b.job.model.factory}"
    if run_a.job.model.input != run_b.job.model.input:
        yield "other model.input"


def _groups_apart(table_a: pa.Table, table_b: pa.Table, names: ClassNames) -> Iterator[str]:
    groups_a, groups_b = (set(map(names.group, pc.unique(t["group"]).to_pylist())) for t in (table_a, table_b))
    if groups_a != groups_b:
        yield (
            f"groups only in the first: {_listed(sorted(groups_a - groups_b))}; only in the second: "
            f"{_listed(sorted(groups_b - groups_a))}; the others are compared"
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) + more) if names else "none"


# -- rows side by side


def _channels(table: pa.Table) -> Iterator[tuple[str, int]]:
    counts = table.group_by("layer").aggregate([("channel", "max")])
    yield from ((row["layer"], row["channel_max"] + 1) for row in counts.to_pylist())


def _group_names(table: pa.Table) -> list[str]:
    return [name_of(value) for value in pc.unique(table["group"]).to_pylist()]


def _common_groups(table_a: pa.Table, table_b: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Both tables with only the groups that both have. Tables are sorted alike, so their rows then correspond."""
    common = set(_group_names(table_a)) & set(_group_names(table_b))
    filtered = []
    for table in (table_a, table_b):
        values = [value for value in pc.unique(table["group"]).to_pylist() if name_of(value) in common]
        filtered.append(table.filter(pc.is_in(table["group"], pa.array(values, table["group"].type))))
    for key in KEYS:
        keys_a, keys_b = (pc.cast(table[key], pa.string()) for table in filtered)
        if not keys_a.equals(keys_b):
            raise UserError("the rankings are not in the same order: one of them was not written by this program")
    return filtered[0], filtered[1]


def _side(table: pa.Table, pilot: int | None) -> Side:
    squared = _numbers(table, "score_squared")
    dead = np.array([status == "constant" for status in table["status"].to_pylist()])
    if MATCHED in table.column_names:  # a channel without a counterpart is not compared
        unmatched = ~table[MATCHED].to_numpy(zero_copy_only=False)
        squared, dead = np.where(unmatched, np.nan, squared), dead & ~unmatched
    return Side(
        squared=squared,
        pseudo=by_fold(table, "pseudo_values"),
        images=table["images"].to_numpy(),
        dead=dead,
        pilot=pilot,
        plan_noise=by_fold(table, NOISE) if NOISE in table.column_names else None,
    )


def _numbers(table: pa.Table, column: str) -> Floats:
    return np.asarray(table[column].to_numpy(zero_copy_only=False), dtype=np.float64)


def _side_by_side(
    table_a: pa.Table, table_b: pa.Table, differences: Difference, settings: ComparisonSettings
) -> pa.Table:
    """comparison.parquet: a row per target, group, layer and channel that both runs have."""
    q_value = false_discovery(differences.p_value)
    score = [np.nan_to_num(_numbers(table, "score")) for table in (table_a, table_b)]
    moved = (q_value <= settings.level) & (np.abs(score[1] - score[0]) >= settings.tolerance)
    columns: dict[str, Any] = {key: table_b[key] for key in KEYS}
    columns |= {key: table_b[key] for key in ("channel_b", "likeness") if key in table_b.column_names}
    for name in ("status", "images", "rank", "rank_low", "rank_high", "layer_rank", "score", "score_low", "score_high"):
        columns |= {f"{name}_a": table_a[name], f"{name}_b": table_b[name]}
    columns["change"] = pa.array(score[1] - score[0])
    for name, values in (
        ("squared_change", differences.change),
        ("squared_error", differences.error),
        ("p_value", differences.p_value),
        ("q_value", q_value),
    ):
        columns[name] = pa.array(values, pa.float64(), mask=np.isnan(values))
    columns["movement"] = pa.array(_kinds(table_a, table_b, differences.change, moved), pa.string())
    columns["moved"] = pa.array(moved)
    return pa.table(columns)


def _kinds(table_a: pa.Table, table_b: pa.Table, change: Floats, moved: npt.NDArray[np.bool_]) -> list[str]:
    """The kind of movement of each channel: appeared or died, by its status; rose or fell, where it moved; same; or
    unknown, where there is no score with an error."""
    before, after = (table["status"].to_pylist() for table in (table_a, table_b))
    kinds = []
    for status_before, status_after, by, is_moved in zip(before, after, change, moved, strict=True):
        if np.isnan(by):
            kinds.append("unknown")
        elif status_before != status_after:
            kinds.append("died" if status_after == "constant" else "appeared")
        else:
            kinds.append(("rose" if by > 0 else "fell") if is_moved else "same")
    return kinds


def _agreements(table_a: pa.Table, table_b: pa.Table, settings: ComparisonSettings) -> Iterator[AgreementRow]:
    """The agreement of every ranking over all layers, and, where there are several, of each layer."""
    scores_a, scores_b = (_numbers(table, "score_squared") for table in (table_a, table_b))
    targets = np.array(table_a["target"].to_pylist(), dtype=object)
    layers = np.array(table_a["layer"].to_pylist(), dtype=object)
    groups = table_a["group"].to_pylist()
    blocks: dict[tuple[str, Any], list[int]] = {}
    for row, key in enumerate(zip(targets, groups, strict=True)):
        blocks.setdefault(key, []).append(row)
    names = list(dict.fromkeys(layers))
    for (target, group), places in blocks.items():
        all_rows = np.array(places)
        parts: Mapping[str | None, npt.NDArray[np.int64]] = {None: all_rows}
        if len(names) > 1:
            parts = {None: all_rows} | {name: all_rows[layers[all_rows] == name] for name in names}
        for layer, rows in parts.items():
            agreed = agreement(scores_a[rows], scores_b[rows], top=settings.top, persistence=settings.persistence)
            yield AgreementRow(target, group, layer, agreed)


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _no_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _no_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_no_nan(inner) for inner in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


_EMPTY = pa.table(
    {"p_value": pa.array([], pa.float64()), "moved": pa.array([], pa.bool_()), "movement": pa.array([], pa.string())}
)
