"""What a tracker of experiments (MLflow, Weights & Biases) gets of a run: settings, numbers, tags, files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pcace_dist.artifacts.rankings import RANKED, RANKINGS, best_of
from pcace_dist.artifacts.run import Run
from pcace_dist.commands.export.tables import csv_of, flat, text_of
from pcace_dist.config.resolve import absolute
from pcace_dist.models.ablation.replacement import BIAS, MEAN, OPTIMAL, ZERO

FILES = (
    RANKINGS,
    "rankings_across_groups.parquet",
    "bad_rows.parquet",
    "classes.parquet",
    "summary.json",
    "report.html",
    "evaluation.json",
    "evaluation.parquet",
    *(f"evaluation-{name}.svg" for name in (MEAN, ZERO, BIAS, OPTIMAL)),
    "select.json",
    "select.parquet",
    "comparison.json",
    "comparison.parquet",
    "matching.parquet",
)
"""Files of a run that go along, as far as it has them: results, figures and the page. The rest stays with the run."""
PAGE = "report.html"
COUNTED = ("images", "bad_rows", "unlabelled", "units", "workers", "seconds", "images_per_second")
ROWS_SHOWN = 10_000  # of the ranking as a table in a tracker's page


@dataclass(frozen=True)
class Tracked:
    """Where a run is in a tracker, whether it was there before, and what was added now."""

    place: str
    known: bool
    added: tuple[str, ...]


class RunRecord:
    """One finished run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.name = absolute(run.path).rpartition("/")[2]
        self._summary = run.summary

    @property
    def fingerprint(self) -> str:
        """Digest of all that the result depends on."""
        return str(self._summary["fingerprint"])

    @property
    def identity(self) -> dict[str, str]:
        """What makes two exports those of the same result: the job's fingerprint, the data's, the frozen plan."""
        keys = ("fingerprint", "data", "plan")
        return {key: str(self._summary[key]) for key in keys if self._summary.get(key) is not None}

    @property
    def params(self) -> dict[str, str]:
        """The resolved job, a text by dotted key."""
        return {key: text_of(value) for key, value in flat(self.run.job.model_dump(mode="json")).items()}

    @property
    def tags(self) -> dict[str, str]:
        """Identity, where the run lies, how it ended, and versions."""
        told = {"run": self.run.path} | {key: str(self._summary[key]) for key in ("outcome", "precision")}
        versions = {f"version.{name}": text for name, text in self._summary.get("versions", {}).items()}
        return self.identity | told | versions

    @property
    def metrics(self) -> dict[str, float]:
        """Counts and seconds; channels and ranked ones; of every target and layer the best score and effect over its
        channels and groups."""
        counted = {key: self._summary.get(key) for key in COUNTED}
        known = {key: float(value) for key, value in counted.items() if value is not None}
        known |= {f"seconds.{key}": float(value) for key, value in self._summary.get("stages", {}).items()}
        return known | self._of_layers()

    def _of_layers(self) -> dict[str, float]:
        ranked = self.ranking.filter(pc.equal(self.ranking["status"], RANKED))
        channels = self.ranking.group_by(["layer", "channel"]).aggregate([])
        found = {"channels": float(len(channels)), "ranked": float(len(ranked))}
        for column in [name for name in ("score", "effect") if name in ranked.column_names]:
            best = ranked.group_by(["target", "layer"], use_threads=False).aggregate([(column, "max")])
            for row in best.to_pylist():
                if row[f"{column}_max"] is not None:
                    found[f"best_{column}/{row['target']}/{row['layer']}"] = row[f"{column}_max"]
        return found

    @cached_property
    def ranking(self) -> pa.Table:
        return self.run.table(RANKINGS)

    def shown(self) -> tuple[pa.Table, int]:
        """The best rows of every target and group, at most ROWS_SHOWN in all, and how many ranked ones that leaves
        out. Classes have their names."""
        ranked = self.ranking.filter(pc.is_valid(self.ranking["rank"]))
        rankings = max(1, len(ranked.group_by(["target", "group"]).aggregate([])))
        best = best_of(ranked, max(1, ROWS_SHOWN // rankings))[:ROWS_SHOWN]
        named = {
            "target": [self.run.names.target(name) for name in best["target"].to_pylist()],
            "group": [None if group is None else self.run.names.group(group) for group in best["group"].to_pylist()],
        }
        for name, values in named.items():
            best = best.set_column(best.column_names.index(name), name, pa.array(values, pa.string()))
        return best, len(ranked) - len(best)

    @cached_property
    def file_names(self) -> list[str]:
        """Those of FILES that the run has, in this order."""
        return [name for name in FILES if self.run.storage.stat(f"{self.run.path}/{name}") is not None]

    def write_files(self, folder: Path) -> Iterator[Path]:
        """Writes FILES, the ranking as CSV, and the resolved job into a local folder, one by one."""
        for name in self.file_names:
            yield _written(folder / name, self.run.storage.read_bytes(f"{self.run.path}/{name}"))
        yield _written(folder / "rankings.csv", csv_of(self.ranking))
        yield _written(folder / "job.yaml", self.run.job_text().encode())

    @property
    def notes(self) -> Sequence[str]:
        """What people should know of what is not there."""
        if PAGE in self.file_names:
            return ()
        return (f"without a page: `pcace report {self.run.path}` writes one, and the next export adds it",)


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def plain(table: pa.Table) -> list[list[Any]]:
    """The rows of a table, as lists."""
    return [list(row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]
