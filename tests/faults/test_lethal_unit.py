"""A unit that kills its worker every time: isolated, set aside with its reason, and the run goes on."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.faults.harness import ROW_GROUP, ROWS, Driver, Json, kinds, ledger, rankings, slow_job, summary, write_job
from tests.faults.networks import LETHAL, MARK
from tests.planted import png

pytestmark = pytest.mark.faults

GROUP = 5  # the row group with the lethal image
PLACE = 77  # its place there, which the pilot does not look at


def with_corner(data: bytes, grey: int) -> bytes:
    """The image with another top left pixel."""
    pixels = np.array(Image.open(io.BytesIO(data)))
    pixels[0, 0] = grey
    return png(pixels)


def write_lethal(data: Path, folder: Path) -> None:
    """One row group is marked, so that no row of it counts whether or not it kills; one of its images is lethal."""
    table = pa.concat_tables(pq.read_table(path) for path in sorted(data.iterdir()))
    images = [with_corner(image, 128) for image in table["image"].to_pylist()]
    for row in range(GROUP * ROW_GROUP, (GROUP + 1) * ROW_GROUP):
        images[row] = with_corner(images[row], LETHAL if row % ROW_GROUP == PLACE else MARK)
    folder.mkdir()
    whole = table.set_column(0, "image", pa.array(images, pa.binary()))
    pq.write_table(whole, folder / "part.parquet", row_group_size=ROW_GROUP)


def job_of(folder: Path, output: Path, *, kill: bool) -> Json:
    job: dict[str, Any] = slow_job(folder, output)
    job["model"] = job["model"] | {"factory": "tests.faults.networks:lethal", "kwargs": {"kill": kill}}
    job["statistics"] = job["statistics"] | {"pilot": 200}
    return job


def test_a_unit_that_kills_its_workers_is_set_aside(data: Path, tmp_path: Path) -> None:
    write_lethal(data, tmp_path / "data")
    for name, kill in (("harmless", False), ("lethal", True)):
        job = write_job(tmp_path / f"{name}.json", job_of(tmp_path / "data", tmp_path / name, kill=kill))
        with Driver(job) as driver:
            assert driver.finish() == 4, driver.errors  # 5 % of the rows are set aside either way
            assert "Traceback" not in driver.errors
    output = tmp_path / "lethal"
    (record,) = [record for record in ledger(output) if record["kind"] == "set_aside"]
    assert len(record["body"]["units"]) == 1
    assert "3 workers died while they computed it" in record["body"]["reason"]
    bad = pq.read_table(output / "bad_rows.parquet").to_pylist()
    assert [(row["file"], row["row_group"], row["stage"]) for row in bad] == [("part.parquet", GROUP, "model")]
    assert "3 workers died" in bad[0]["reason"]
    for name in ("harmless", "lethal"):
        held = summary(tmp_path / name)
        assert (held["outcome"], held["exit_code"]) == ("too_many_bad_rows", 4)
        assert (held["images"], held["bad_rows"]) == (ROWS - ROW_GROUP, ROW_GROUP)
    assert "set_aside" not in kinds(tmp_path / "harmless")
    assert rankings(output).equals(rankings(tmp_path / "harmless"))
