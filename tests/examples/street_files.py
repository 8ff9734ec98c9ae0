"""A small city of examples/street by the commands of its README: raw pictures, shards, run, report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from examples.street.city import City, write_city
from pcace_dist.artifacts.run import Run, open_run
from pcace_dist.cli.main import main
from tests.reporting.opened import OpenedReport

EXAMPLE = Path(__file__).parents[2] / "examples" / "street"
JOB = EXAMPLE / "job.yaml"


@dataclass(frozen=True)
class Ranked:
    """A small city's pictures and CSV, its shards, its run and the run's report."""

    city: City
    csv: Path
    run: Run

    @property
    def report(self) -> OpenedReport:
        return OpenedReport(Path(self.run.path) / "report.html")


def rank_city(city: City, folder: Path) -> Ranked:
    """Raw pictures to the report, by the commands of the README, with job.yaml as it is."""
    csv = write_city(city, folder / "raw")
    shards, output = folder / "shards", folder / "run"
    assert main(["pack", str(csv), str(shards), "--image-column", "path", "--shard-rows", "150"]) == 0
    places = {"dataset.path": shards, "model.weights": EXAMPLE / "weights.safetensors", "output": output}
    assert main(["rank", str(JOB), *(part for key, path in places.items() for part in ("--set", f"{key}={path}"))]) == 0
    assert main(["report", str(output), "--top", "1", "--no-synthesis"]) == 0
    return Ranked(city, csv, open_run(str(output)))
