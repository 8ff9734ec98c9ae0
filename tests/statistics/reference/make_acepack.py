"""Computes acepack.json anew: python -m tests.statistics.reference.make_acepack (needs Rscript with acepack).

Debian and Ubuntu: apt-get install r-base-core r-cran-acepack. The cases of the full training set are made only where
it lies beside the project; without it their stored values stay as they are.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.statistics import mnist

HERE = Path(__file__).parent
STORED = HERE / "acepack.json"
COLUMNS = ("score", "first_component", "held_out")
TRAIN_ROWS = 300


@dataclass(frozen=True)
class Case:
    """One layer, one digit (or all), p; `full`: all training images of the digit, held out the test images."""

    layer: str
    digit: int | None
    components: int
    full: bool = False

    @property
    def name(self) -> str:
        where = "train" if self.full else "example"
        return f"{where}-{self.layer}-{'all' if self.digit is None else self.digit}-{self.components}"

    def split(self) -> tuple[mnist.Activations, mnist.Activations]:
        """Rows for the fit, and held-out rows."""
        if self.full:
            return (
                mnist.activations(mnist.TRAIN, self.layer, self.digit),
                mnist.activations(mnist.TEST, self.layer, self.digit),
            )
        rows = mnist.activations(mnist.EXAMPLE, self.layer, self.digit)
        places = np.arange(len(rows.target))
        count = TRAIN_ROWS if self.digit is not None else 3000
        return rows.rows(places[:count]), rows.rows(places[count:])


LAYERS = ("conv1", "conv2", "relu2", "conv3")
EXAMPLE_CASES = tuple(
    Case(layer, digit, components) for layer in LAYERS for digit in (3, 7) for components in (1, 3, 5, 10)
) + tuple(Case(layer, None, 5) for layer in LAYERS)
FULL_CASES = tuple(
    Case(layer, digit, components, full=True)
    for layer in LAYERS
    for digit in (3, 7)
    for components in ((1, 3, 5, 10) if digit == 3 else (5,))
)


def write(case: Case, folder: Path) -> None:
    fit, held = case.split()
    layer = fit.plan(case.components).layers[0]
    x, held_x = fit.components(layer), held.components(layer)
    with (folder / f"{case.name}.bin").open("wb") as file:
        np.array([len(x), len(held_x), x.shape[1], x.shape[2]], dtype="<i4").tofile(file)
        fit.target.tofile(file)
        held.target.tofile(file)
        for channel in range(x.shape[1]):
            for component in range(x.shape[2]):
                np.ascontiguousarray(x[:, channel, component]).tofile(file)
                np.ascontiguousarray(held_x[:, channel, component]).tofile(file)


def main() -> None:
    stored = json.loads(STORED.read_text()) if STORED.exists() else {"cases": {}}
    cases = EXAMPLE_CASES + (FULL_CASES if mnist.TRAIN.exists() and mnist.TEST.exists() else ())
    for case in cases:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write(case, folder)
            subprocess.run(["Rscript", str(HERE / "acepack.R"), name], check=True)
            values = np.loadtxt(folder / f"{case.name}.csv", delimiter=",", ndmin=2)
            stored["acepack"] = (folder / "version").read_text()
        stored["cases"][case.name] = {
            column: values[:, index].round(5).tolist() for index, column in enumerate(COLUMNS)
        }
        print(case.name, values.mean(axis=0).round(3), flush=True)
    STORED.write_text(json.dumps(stored, separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
