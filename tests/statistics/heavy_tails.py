"""Laws with heavy tails, atoms and rare events: channels of one component each, tied to the target by 0 to 1.2."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

CHANNELS = 6
HELD_ROWS = 10_000
SAMPLES = 4  # of a case
LAWS = ("lognormal", "zero-inflated", "cubed", "tail event")
SIZES = (300, 1000, 5000)


@dataclass(frozen=True)
class TailCase:
    """A law and the number of rows of a sample."""

    law: str
    rows: int

    @property
    def name(self) -> str:
        return f"{self.law.replace(' ', '-')}-{self.rows}"

    def sample(self, number: int) -> tuple[Floats, Floats]:
        """x (n, C), y (n,)."""
        return drawn(self.law, self.rows, number)

    def held(self, number: int) -> tuple[Floats, Floats]:
        """Rows of the same law that are held out of that sample."""
        return drawn(self.law, HELD_ROWS, 1000 + number)


CASES = tuple(TailCase(law, rows) for law in LAWS for rows in SIZES)


def drawn(law: str, rows: int, seed: int) -> tuple[Floats, Floats]:
    """lognormal, cubed: x and y so transformed. zero-inflated: most maps are 0, few are large. tail event: x and y are
    independent but for 0.5 % of the rows, where both are far out."""
    random = np.random.default_rng(seed)
    noise, y = random.normal(size=(rows, CHANNELS)), random.normal(size=rows)
    if law == "tail event":
        far = random.random(rows) < 0.005
        return noise + 8 * far[:, None], y + 8 * far
    x = noise + np.linspace(0, 1.2, CHANNELS) * y[:, None]
    if law == "lognormal":
        return np.exp(x), np.exp(y)
    if law == "zero-inflated":
        return np.maximum(x - 1, 0) ** 1.5, y
    return x**3, y**3
