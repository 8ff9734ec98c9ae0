"""Computes acepack.json anew: python -m tests.statistics.reference.make_acepack (needs Rscript with acepack). With the
beginning of a name, only these cases.

Debian and Ubuntu: apt-get install r-base-core r-cran-acepack. The cases of the full training set are made only where
it lies beside the project; without it their stored values stay as they are.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.statistics import mnist
from tests.statistics.heavy_tails import CASES as TAIL_CASES
from tests.statistics.heavy_tails import SAMPLES, Floats

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


Rows = tuple[Floats, Floats]  # x (n, C, p), y (n,)


def activations_of(case: Case) -> tuple[Rows, Rows]:
    fit, held = case.split()
    layer = fit.plan(case.components).layers[0]
    return (fit.components(layer), fit.target), (held.components(layer), held.target)


def write(fit: Rows, held: Rows, path: Path) -> None:
    (x, y), (held_x, held_y) = fit, held
    with path.open("wb") as file:
        np.array([len(x), len(held_x), x.shape[1], x.shape[2]], dtype="<i4").tofile(file)
        y.tofile(file)
        held_y.tofile(file)
        for channel in range(x.shape[1]):
            for component in range(x.shape[2]):
                np.ascontiguousarray(x[:, channel, component]).tofile(file)
                np.ascontiguousarray(held_x[:, channel, component]).tofile(file)


def acepack(fit: Rows, held: Rows) -> tuple[Floats, str]:
    """What acepack says: (C, COLUMNS), and its version."""
    with tempfile.TemporaryDirectory() as folder:
        write(fit, held, Path(folder) / "case.bin")
        subprocess.run(["Rscript", str(HERE / "acepack.R"), folder], check=True)
        values = np.loadtxt(Path(folder) / "case.csv", delimiter=",", ndmin=2)
        return values, (Path(folder) / "version").read_text()


def cases() -> Iterator[tuple[str, Rows, Rows]]:
    """Name, rows for the fit, held-out rows."""
    full = FULL_CASES if mnist.TRAIN.exists() and mnist.TEST.exists() else ()
    for case in EXAMPLE_CASES + full:
        yield case.name, *activations_of(case)
    for tails in TAIL_CASES:
        for number in range(SAMPLES):
            (x, y), (held_x, held_y) = tails.sample(number), tails.held(number)
            yield f"{tails.name}-{number}", (x[:, :, None], y), (held_x[:, :, None], held_y)


def main(wanted: str = "") -> None:
    stored = json.loads(STORED.read_text()) if STORED.exists() else {"cases": {}}
    for name, fit, held in cases():
        if name.startswith(wanted):
            values, stored["acepack"] = acepack(fit, held)
            stored["cases"][name] = {column: values[:, i].round(5).tolist() for i, column in enumerate(COLUMNS)}
            print(name, values.mean(axis=0).round(3), flush=True)
    STORED.write_text(json.dumps(stored, separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
