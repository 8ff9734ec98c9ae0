"""A run as CSV or JSON files: its tables, its summary, its job, and what every field means. The same bytes each time.

    rankings, rankings_across_groups, bad_rows, classes, exemplars   as the Parquet files of these names, row by row
    summary    of CSV a row per key, nested keys with dots (`stages.plan`), lists as JSON text
    job        the resolved job: job.yaml, of JSON job.json
    fields     file, column, type and meaning of every column

What has lists in its cells (jackknife, sample, transforms) stays Parquet: `Run` reads it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv as pcsv

from pcace_dist.artifacts import across_groups, bad_rows, examples, rankings
from pcace_dist.artifacts.columns import Table
from pcace_dist.artifacts.reading import class_names
from pcace_dist.artifacts.run import Run
from pcace_dist.artifacts.summary import KEYS

TABLES: Sequence[Table] = (
    rankings.TABLE,
    across_groups.TABLE,
    bad_rows.TABLE,
    class_names.TABLE,
    examples.EXEMPLARS_TABLE,
)
FIELDS = ("file", "column", "type", "meaning")


def csv_files(run: Run) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file, UTF-8; null is an empty cell, an empty text is in quotes."""
    for name, table in tables_of(run):
        yield f"{name}.csv", csv_of(table)
    yield "summary.csv", _rows(("key", "value"), ((key, _cell(value)) for key, value in flat(run.summary).items()))
    yield "job.yaml", run.job_text().encode()
    yield "fields.csv", _rows(FIELDS, fields_of(run, "csv"))


def json_files(run: Run) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file: tables as an array with a line for each row, null for what is missing."""
    for name, table in tables_of(run):
        yield f"{name}.json", _array(table.to_pylist())
    yield "summary.json", _object(run.summary)
    yield "job.json", _object(run.job.model_dump(mode="json"))
    yield "fields.json", _array([dict(zip(FIELDS, row, strict=True)) for row in fields_of(run, "json")])


def tables_of(run: Run) -> Iterator[tuple[str, pa.Table]]:
    """The tables that the run has, by name. With `shown: none` in the job none says what images channels respond to."""
    for declared in TABLES:
        table = run.table_if_any(declared.file)
        if declared is examples.EXEMPLARS_TABLE and table is not None and run.job.shown == "none":
            table = examples.without_places(table)
        if table is not None:
            yield declared.file.removesuffix(".parquet"), table


def csv_of(table: pa.Table) -> bytes:
    """A table without lists."""
    sink = io.BytesIO()
    pcsv.write_csv(table, sink)
    return sink.getvalue()


def fields_of(run: Run, ending: str) -> Iterator[tuple[str, str, str, str]]:
    """FIELDS of every column of the exported tables, then of the summary's keys."""
    meanings = {(own.file, column.name): column.meaning for own in TABLES for column in own.columns}
    for name, table in tables_of(run):
        for field in table.schema:
            yield f"{name}.{ending}", field.name, str(field.type), meanings.get((f"{name}.parquet", field.name), "")
    for key in run.summary:
        yield f"summary.{ending}", key, "", KEYS.get(key, "")


def flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots; lists stay as they are."""
    found: dict[str, Any] = {}
    for key, own in value.items():
        found |= flat(own, f"{before}{key}.") if isinstance(own, Mapping) and own else {f"{before}{key}": own}
    return found


def text_of(value: Any) -> str:
    """A value of a job or summary as text: as YAML and JSON write it, texts without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cell(value: Any) -> str:
    return "" if value is None else text_of(value)


def _rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def _array(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Values of other types than JSON's (a group may be a date) as text."""
    lines = (json.dumps(row, ensure_ascii=False, default=str) for row in rows)
    return ("[\n" + ",\n".join(lines) + "\n]\n" if rows else "[]\n").encode()


def _object(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
