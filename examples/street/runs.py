"""The parts of a run on the made-up city: its city, its network, and mean scores with intervals."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.stats
from PIL import Image
from torch import nn

from examples.street.city import City, city_of
from pcace_dist.artifacts.run import Run
from pcace_dist.models.load import load_model

PREDICTION, MEASURED = "output:0", "column:no2"


@dataclass(frozen=True)
class Share:
    """A share of an earlier value, with a 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def shards_of(run: Run) -> list[Path]:
    """The shards that a run has ranked."""
    return [file for place in run.job.dataset.path for file in sorted(Path(place).glob("*.parquet"))]


def picture_size(run: Run) -> int:
    """The side of a run's pictures in pixels, from the first picture."""
    first = next(pq.ParquetFile(shards_of(run)[0]).iter_batches(batch_size=1, columns=["image"]))
    return int(Image.open(io.BytesIO(first["image"][0]["bytes"].as_py())).width)


def city_of_run(run: Run) -> City:
    """The city whose pictures a run has ranked, from the columns of its shards."""
    files = shards_of(run)
    columns = [name for name in pq.read_schema(files[0]).names if name != "image"]
    return city_of(pa.concat_tables([pq.read_table(file, columns=columns) for file in files]))


def model_of(run: Run) -> nn.Module:
    """The network that a run has ranked."""
    settings = run.job.model
    return load_model(
        settings.factory, settings.kwargs, settings.weights, seed=0, read=lambda path: Path(path).read_bytes()
    )


def mean_score(run: Run, target: str, group: str | None, layer: str, channels: Sequence[int]) -> Share:
    """Mean of score_squared over channels, with a jackknife interval from the means of their pseudo-values."""
    table = run.jackknife()
    selected = (table["target"].to_numpy() == target) & (table["layer"].to_numpy() == layer)
    selected &= np.isin(table["channel"].to_numpy(), list(channels))
    if group is not None:
        selected &= table["group"].to_numpy() == group
    pseudo_values = [values for values in table.filter(selected)["pseudo_values"].to_pylist() if values is not None]
    folds = np.mean(np.array(pseudo_values, np.float64), axis=0)
    reach = scipy.stats.t.ppf(0.975, len(folds) - 1) * folds.std(ddof=1) / np.sqrt(len(folds))
    return Share(float(folds.mean()), float(folds.mean() - reach), float(folds.mean() + reach))
