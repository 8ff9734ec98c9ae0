"""A whole run, compared, evaluated and selected from, has what docs/reference/outputs.md names."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pcace_dist.artifacts.columns import FILES, GROUP, Table
from pcace_dist.artifacts.summary import KEYS
from pcace_dist.cli.main import main
from tests.digits import digits_job, ranked, write_digits
from tests.reference.outputs import TABLES
from tests.whole_jobs import jobs_without_ray

GROUPS = pa.string()  # column `place`


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that keeps codes, in groups, with named classes, compared with itself and evaluated."""
    folder = tmp_path_factory.mktemp("outputs")
    write_digits(folder / "data", 800)
    (folder / "data" / "part-99999.parquet").unlink(missing_ok=True)
    with jobs_without_ray():
        more = {"dataset": {"classes": list("0123456789")}, "statistics": {"keep_codes": True}}
        job = digits_job(folder / "data", folder / "run", group_by="place", **more)
        ranked(job)
        path = str(folder / "run")
        assert main(["compare", path, path, "--match", "--min-tau", "-1"]) == 0
        assert main(["evaluate", path, "--draws", "1", "--images", "200", "--layer", "conv2"]) == 0
        assert main(["select", path]) == 0
    yield folder / "run"


def plain(kind: pa.DataType) -> str:
    """A type in the words of the reference."""
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"list of {plain(kind.value_type)}"
    return {"double": "float64", "float": "float32"}.get(str(kind), str(kind))


@pytest.mark.parametrize("one", TABLES, ids=lambda one: one.file)
def test_the_columns_are_those_of_the_file(one: Table, run: Path) -> None:
    schema = pq.read_schema(run / one.file)
    said = []
    for name, kind, _ in one.columns:
        names = [name.replace("<layer>", layer) for layer in ("conv1", "conv2")] if "<layer>" in name else [name]
        said += [(each, plain(GROUPS) if kind == GROUP else kind) for each in names]
    there = [(field.name, plain(field.type)) for field in schema]
    assert sorted(there) == sorted(said)
    assert [name for name, _ in there if "/" not in name] == [name for name, _ in said if "/" not in name]


def test_the_files_are_those_that_are_named(run: Path) -> None:
    patterns = [pattern for names in FILES for pattern in names.split(", ")]
    there = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    assert not [name for name in there if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    missing = {pattern for pattern in patterns if not fnmatch.filter(there, pattern)}
    assert missing <= {"report.html", "report.pdf", "lease.json", "data/*.parquet", "select/codes/*"}


def test_the_keys_of_the_summary_are_those_that_are_named(run: Path) -> None:
    there = set(json.loads((run / "summary.json").read_text()))
    assert there <= set(KEYS)
    assert all(KEYS[key].startswith("only") for key in set(KEYS) - there)
