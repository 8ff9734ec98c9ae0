"""What moved between two finished runs, what only seems to, or why they cannot be compared. Reads runs, writes nothing.

    facts of both runs -> comparable? -> rows side by side -> agreement of the rankings, movement of every channel

The arithmetic is in `agreement` and `movement`; here it is decided which noise a comparison has (docs/comparison.md).
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
from pcace_dist.analysis.movement import Difference, Side, difference, false_discovery
from pcace_dist.artifacts.checked import parsing
from pcace_dist.artifacts.class_names import ClassNames
from pcace_dist.artifacts.run import Run
from pcace_dist.config.job import Job
from pcace_dist.config.resolve import absolute
from pcace_dist.datasets.groups import name_of, rows_of
from pcace_dist.errors import UserError

Floats: TypeAlias = npt.NDArray[np.float64]
Verdict = Literal["same", "moved", "not comparable"]

LEVEL = 0.05
KEYS = ("target", "group", "layer", "channel")
MATCHED = "matched"  # column of a ranking whose channels were put in another network's order
SHOWN = 6  # names in a reason before it says how many more


@dataclass(frozen=True)
class Settings:
    """Settings of a comparison. level: false discovery rate. tolerance: a change of score smaller than that is none.

    target, group, layer: only these. across_data: two data sets are samples from one source, so differences count.
    """

    top: int = TOP
    level: float = LEVEL
    tolerance: float = 0.0
    persistence: float = PERSISTENCE
    target: str | None = None
    group: str | None = None
    layer: str | None = None
    across_data: bool = False


@dataclass(frozen=True)
class RunFacts:
    """What a comparison reads of a run besides its ranking. files: key, size, version of every data file; source: the
    run whose images it is about, another one where it was answered from that one's kept codes."""

    path: str
    job: Job
    fingerprint: str
    weights: str
    plan: str
    data: str | None
    images: int
    files: frozenset[tuple[str, int, str]]
    source: str

    @staticmethod
    def of(run: Run) -> RunFacts:
        with parsing(run.path):
            return RunFacts._of(run, run.summary, run.manifest())

    @staticmethod
    def _of(run: Run, summary: Mapping[str, Any], manifest: Mapping[str, Any]) -> RunFacts:
        if summary.get("exit_code") not in (0, 4):
            raise UserError(f"{run.path}: is not finished ({summary.get('outcome')}); see `pcace status {run.path}`")
        pieces = (piece for unit in manifest["units"] for piece in unit["pieces"])
        return RunFacts(
            path=run.path,
            job=run.job,
            fingerprint=summary["fingerprint"],
            weights=manifest["weights"],
            plan=manifest["plan"],
            data=summary.get("data"),
            images=summary["images"],
            files=frozenset((p["key"], p["size"], p["version"]) for p in pieces),
            source=summary.get("from_codes") or absolute(run.path),
        )

    def to_json(self) -> dict[str, Any]:
        names = ("path", "fingerprint", "weights", "plan", "data", "images")
        return {name: getattr(self, name) for name in names} | {"files": len(self.files)}


@dataclass(frozen=True)
class Noise:
    """Which noise the difference of two runs has: paired by fold, and the pilots that its plans add."""

    paired: bool
    pilots: tuple[int | None, int | None]


@dataclass(frozen=True)
class AgreementRow:
    """Agreement of one ranking; `layer` None: over all layers."""

    target: str
    group: Any
    layer: str | None
    found: Agreement


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two runs side by side. `channels` is comparison.parquet; `overall` the means over the rankings over all layers.

    reasons: why the runs are not comparable. notes: what else differs between them. names: of the classes, as the later
    run has them, or else the earlier one.
    """

    one: RunFacts
    other: RunFacts
    settings: Settings
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
        rows = [row.found for row in self.agreement if row.layer is None]
        names = ("kendall", "spearman", "overlap", "rbo")
        return {name: _mean([getattr(found, name) for found in rows]) for name in names}

    @property
    def counts(self) -> dict[str, int]:
        """Channels judged and moved, and those of each kind of movement among the moved."""
        moved = self.channels.filter(self.channels["moved"])
        kinds = moved["movement"].to_pylist()
        judged = len(self.channels) - self.channels["p_value"].null_count
        found = {kind: kinds.count(kind) for kind in ("rose", "fell", "appeared", "died")}
        return {"channels": len(self.channels), "judged": judged, "moved": len(moved)} | found

    def moved(self) -> list[dict[str, Any]]:
        """The channels that moved, the surest first."""
        rows: list[dict[str, Any]] = self.channels.filter(self.channels["moved"]).to_pylist()
        return sorted(rows, key=lambda row: (row["p_value"], -abs(row["change"])))

    def to_json(self) -> dict[str, Any]:
        """The content of comparison.json; NaN as null."""
        content: dict[str, Any] = _no_nan(
            {
                "format_version": 1,
                "run_a": self.one.to_json(),
                "run_b": self.other.to_json(),
                "verdict": self.verdict,
                "reasons": list(self.reasons),
                "notes": list(self.notes),
                "settings": asdict(self.settings),
                "paired": self.noise.paired,
                "plan_noise_from_pilots": list(self.noise.pilots),
                "overall": self.overall,
                "counts": self.counts if len(self.channels) else {},
                "agreement": [
                    {"target": row.target, "group": row.group, "layer": row.layer} | asdict(row.found)
                    for row in self.agreement
                ],
            }
        )
        return content


def compare_runs(one: Run, other: Run, settings: Settings | None = None) -> Comparison:
    """Compare two finished runs: what moved from `one` to `other`. Raises UserError for a path that holds no run."""
    settings = settings or Settings()
    a, b = RunFacts.of(one), RunFacts.of(other)
    tables = [selected(run, settings) for run in (one, other)]
    reasons = [*_jobs_differ(a, b, settings), *_rankings_differ(tables[0], tables[1])]
    noise = noise_between(a, b)
    if reasons:
        return Comparison(a, b, settings, "not comparable", tuple(reasons), tuple(_notes(a, b)), noise, (), _EMPTY)
    names = other.names if other.names.names else one.names
    return compare_tables(a, b, tables[0], tables[1], noise, settings, names)


def compare_tables(
    one: RunFacts,
    other: RunFacts,
    first: pa.Table,
    second: pa.Table,
    noise: Noise,
    settings: Settings,
    names: ClassNames,
) -> Comparison:
    """Compare rankings with their pseudo-values (`selected`) that are known to be comparable."""
    notes = [*_notes(one, other), *_groups_apart(first, second, names)]
    first, second = _common_groups(first, second)
    found = difference(_side(first, noise.pilots[0]), _side(second, noise.pilots[1]), paired=noise.paired)
    channels = _side_by_side(first, second, found, settings)
    return Comparison(
        one=one,
        other=other,
        settings=settings,
        verdict="moved" if pc.any(channels["moved"]).as_py() else "same",
        reasons=(),
        notes=tuple(notes),
        noise=noise,
        agreement=tuple(_agreements(first, second, settings)),
        channels=channels,
        names=names,
    )


def noise_between(one: RunFacts, other: RunFacts) -> Noise:
    """Paired where the runs share images and deal folds alike; other plans add noise, also of the same images."""
    first, second = one.job, other.job
    same_folds = (first.statistics.folds, first.dataset.fold_by) == (second.statistics.folds, second.dataset.fold_by)
    paired = same_folds and _share_images(one, other)
    if one.plan == other.plan:
        return Noise(paired, (None, None))
    pilots = [min(facts.job.statistics.pilot, max(1, facts.images)) for facts in (one, other)]
    return Noise(paired, (pilots[0], pilots[1]))


# -- comparable?


def _share_images(one: RunFacts, other: RunFacts) -> bool:
    """Whether a data file is the same, or both are about the images of one run."""
    return one.source == other.source or bool(one.files & other.files)


def _jobs_differ(one: RunFacts, other: RunFacts, settings: Settings) -> Iterator[str]:
    """Why two runs estimate different things. Model, weights and input may differ: that is what is compared."""
    first, second = one.job, other.job
    asked: dict[str, tuple[object, object]] = {
        "data: dataset.filter": (first.dataset.filter, second.dataset.filter),
        "data: dataset.image": (first.dataset.image, second.dataset.image),
        "data: group_by": (first.group_by, second.group_by),
    }
    for name in ("estimator", "components", "knots", "knots_from", "scale", "penalty"):
        asked[f"statistics.{name}"] = (getattr(first.statistics, name), getattr(second.statistics, name))
    for key, (left, right) in asked.items():
        if left != right:
            yield f"{key} differs: {left!r} and {right!r}"
    apart = first.dataset.path != second.dataset.path and not _share_images(one, other)
    if apart and not settings.across_data:
        yield (
            f"data: dataset.path differs ({_listed(first.dataset.path)} and {_listed(second.dataset.path)}) and no "
            "file is the same; if both are samples from one source, say so with --across-data"
        )


def _rankings_differ(one: pa.Table, other: pa.Table) -> Iterator[str]:
    for column in ("target", "layer"):
        left, right = (pc.unique(table[column]).to_pylist() for table in (one, other))
        if set(left) != set(right):
            only = [name for name in left if name not in right], [name for name in right if name not in left]
            yield (
                f"{column}s differ: only in the first: {_listed(only[0])}; only in the second: {_listed(only[1])}; "
                f"--{column} compares one that both have"
            )
            return
    sizes = [dict(_channels(table)) for table in (one, other)]
    for layer, count in sizes[0].items():
        if count != sizes[1][layer]:
            yield f"layers differ: {layer} has {count} channels in the first and {sizes[1][layer]} in the second"
    if not set(_group_names(one)) & set(_group_names(other)):
        yield "data: the runs have no group in common"
    for name, table in (("first", one), ("second", other)):
        if not np.isfinite(_pseudo(table)).any():
            yield f"statistics: the {name} has no pseudo-values: nothing says how sure its scores are"


def _notes(one: RunFacts, other: RunFacts) -> Iterator[str]:
    """What else differs: for the reader, who must not take the data's movement for the model's."""
    yield "the same weights" if one.weights == other.weights else "other weights"
    if one.files == other.files or one.source == other.source:
        yield "the same data"
    else:
        came, went = len(other.files - one.files), len(one.files - other.files)
        yield f"other data: {came} files came, {went} went, {len(one.files & other.files)} are the same"
    if one.plan == other.plan:
        yield "the same plan"
    if one.job.model.factory != other.job.model.factory:
        yield f"other model.factory: {one.job.model.factory} and {other.job.model.factory}"
    if one.job.model.input != other.job.model.input:
        yield "other model.input"


def _groups_apart(one: pa.Table, other: pa.Table, names: ClassNames) -> Iterator[str]:
    left, right = (set(map(names.group, pc.unique(table["group"]).to_pylist())) for table in (one, other))
    if left != right:
        yield (
            f"groups only in the first: {_listed(sorted(left - right))}; only in the second: "
            f"{_listed(sorted(right - left))}; the others are compared"
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) + more) if names else "none"


# -- rows side by side


def selected(run: Run, settings: Settings) -> pa.Table:
    """The ranking with its pseudo-values, of what is asked for."""
    table = run.ranking()
    table = table.append_column("pseudo_values", run.jackknife()["pseudo_values"])
    asked = {
        "target": run.names.asked_target(settings.target),
        "group": run.names.asked_group(settings.group),
        "layer": settings.layer,
    }
    for column, value in asked.items():
        if value is not None:
            chosen = rows_of(column, value, table.schema.field(column).type)
            kept = table.slice(0, 0) if chosen is None else table.filter(chosen)
            if not len(kept):
                shown = run.names.group if column == "group" else str
                known = _listed([shown(value) for value in pc.unique(table[column]).to_pylist()])
                raise UserError(f"{run.path}: no {column} {value!r}; there are: {known}")
            table = kept
    return table


def _channels(table: pa.Table) -> Iterator[tuple[str, int]]:
    counts = table.group_by("layer").aggregate([("channel", "max")])
    yield from ((row["layer"], row["channel_max"] + 1) for row in counts.to_pylist())


def _group_names(table: pa.Table) -> list[str]:
    return [name_of(value) for value in pc.unique(table["group"]).to_pylist()]


def _common_groups(one: pa.Table, other: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Both tables with the groups that both have. They are sorted alike, so that their rows then lie side by side."""
    common = set(_group_names(one)) & set(_group_names(other))
    kept = []
    for table in (one, other):
        values = [value for value in pc.unique(table["group"]).to_pylist() if name_of(value) in common]
        kept.append(table.filter(pc.is_in(table["group"], pa.array(values, table["group"].type))))
    for key in KEYS:
        left, right = (pc.cast(table[key], pa.string()) for table in kept)
        if not left.equals(right):
            raise UserError("the rankings are not in the same order: one of them was not written by this program")
    return kept[0], kept[1]


def _pseudo(table: pa.Table) -> Floats:
    """Pseudo-values as (C, F), NaN where null."""
    column = table["pseudo_values"].combine_chunks()
    known = column.is_valid().to_numpy(zero_copy_only=False)
    folds = int(pc.max(pc.list_value_length(column)).as_py() or 1)
    result = np.full((len(column), folds), np.nan)
    result[known] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, folds)
    return result


def _side(table: pa.Table, pilot: int | None) -> Side:
    squared = _numbers(table, "score_squared")
    dead = np.array([status == "constant" for status in table["status"].to_pylist()])
    if MATCHED in table.column_names:  # a channel without a counterpart is compared with none
        lost = ~table[MATCHED].to_numpy(zero_copy_only=False)
        squared, dead = np.where(lost, np.nan, squared), dead & ~lost
    return Side(
        squared=squared,
        pseudo=_pseudo(table),
        images=table["images"].to_numpy(),
        dead=dead,
        pilot=pilot,
    )


def _numbers(table: pa.Table, column: str) -> Floats:
    return np.asarray(table[column].to_numpy(zero_copy_only=False), dtype=np.float64)


def _side_by_side(one: pa.Table, other: pa.Table, found: Difference, settings: Settings) -> pa.Table:
    """comparison.parquet: a row per target, group, layer and channel that both runs have."""
    q_value = false_discovery(found.p_value)
    score = [np.nan_to_num(_numbers(table, "score")) for table in (one, other)]
    moved = (q_value <= settings.level) & (np.abs(score[1] - score[0]) >= settings.tolerance)
    columns: dict[str, Any] = {key: other[key] for key in KEYS}
    columns |= {key: other[key] for key in ("channel_b", "likeness") if key in other.column_names}
    for name in ("status", "images", "rank", "rank_low", "rank_high", "layer_rank", "score", "score_low", "score_high"):
        columns |= {f"{name}_a": one[name], f"{name}_b": other[name]}
    columns["change"] = pa.array(score[1] - score[0])
    for name, values in (
        ("squared_change", found.change),
        ("squared_error", found.error),
        ("p_value", found.p_value),
        ("q_value", q_value),
    ):
        columns[name] = pa.array(values, pa.float64(), mask=np.isnan(values))
    columns["movement"] = pa.array(_kinds(one, other, found.change, moved), pa.string())
    columns["moved"] = pa.array(moved)
    return pa.table(columns)


def _kinds(one: pa.Table, other: pa.Table, change: Floats, moved: npt.NDArray[np.bool_]) -> list[str]:
    """appeared and died by the channels' status, rose and fell only where it moved, unknown where nothing can say."""
    before, after = (table["status"].to_pylist() for table in (one, other))
    kinds = []
    for was, now, by, sure in zip(before, after, change, moved, strict=True):
        if np.isnan(by):
            kinds.append("unknown")
        elif was != now:
            kinds.append("died" if now == "constant" else "appeared")
        else:
            kinds.append(("rose" if by > 0 else "fell") if sure else "same")
    return kinds


def _agreements(one: pa.Table, other: pa.Table, settings: Settings) -> Iterator[AgreementRow]:
    """Every ranking over all layers, then layer by layer where there are several."""
    first, second = (_numbers(table, "score_squared") for table in (one, other))
    targets = np.array(one["target"].to_pylist(), dtype=object)
    layers = np.array(one["layer"].to_pylist(), dtype=object)
    groups = one["group"].to_pylist()
    blocks: dict[tuple[str, Any], list[int]] = {}
    for place, key in enumerate(zip(targets, groups, strict=True)):
        blocks.setdefault(key, []).append(place)
    names = list(dict.fromkeys(layers))
    for (target, group), places in blocks.items():
        whole = np.array(places)
        parts: Mapping[str | None, npt.NDArray[np.int64]] = {None: whole}
        if len(names) > 1:
            parts = {None: whole} | {name: whole[layers[whole] == name] for name in names}
        for layer, rows in parts.items():
            found = agreement(first[rows], second[rows], top=settings.top, persistence=settings.persistence)
            yield AgreementRow(target, group, layer, found)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


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
