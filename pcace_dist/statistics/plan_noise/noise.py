"""What another pilot would change in the scores: noise of the plan, by fold. Pure: no I/O, no Ray.

half_samples.py makes it. Residuals psi_f are about 0; the variance of their mean, sum of psi_f^2 / (F (F - 1)), is that
of `score_squared` between pilots. They add up with the jackknife's residuals, fold by fold. What holds the score that
*another* pilot would give has the deviations of two pilots in it, this one's and the other's: ANOTHER psi_f.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pcace_dist.statistics.effects.plan import EVERY
from pcace_dist.statistics.folds import dealt_anew

Floats: TypeAlias = npt.NDArray[np.float64]

UNKNOWN = 1.5  # times the noise of all rows: that of a group with few rows in the pilot, or none


@dataclass(frozen=True, eq=False)
class PlanNoise:
    """The plan's noise as the pilot froze it.

    targets: those that have one. rankings: which of them have their own, EVERY first; the others are names of groups of
    the column `group_by`. Empty where only some of the pilot's rows are ranked. layers: float32 (T, R, C, parts) by
    layer.
    """

    targets: tuple[str, ...]
    rankings: tuple[str, ...]
    group_by: str | None
    layers: Mapping[str, Tensor]

    def of(self, target: str, layer: str, channels: slice, group: str, folds: int) -> Floats | None:
        """Residuals of some channels in the ranking of a group, float64 (C, folds); None where the target has none.

        A group without a noise of its own takes that of all rows, UNKNOWN times.
        """
        if target not in self.targets:
            return None
        name = EVERY if self.group_by is None else group
        is_known = name in self.rankings
        ranking = self.rankings.index(name) if is_known else 0
        found = self.layers[layer][self.targets.index(target), ranking, channels].double().numpy()
        return dealt_anew(found if is_known else UNKNOWN * found, folds)

    def select(
        self, *, layers: Collection[str], targets: Collection[str], group_by: str | None, filtered: bool = False
    ) -> PlanNoise:
        """The part of some layers and targets, for rankings of the groups of a column. filtered: of some rows only."""
        numbers = [index for index, name in enumerate(self.targets) if name in targets]
        rankings = slice(None) if group_by == self.group_by else slice(0, 1)
        return PlanNoise(
            tuple(self.targets[index] for index in numbers),
            () if filtered else self.rankings[rankings],
            group_by,
            {name: noise[numbers][:, rankings] for name, noise in self.layers.items() if name in layers},
        )

    @property
    def nbytes(self) -> int:
        return sum(noise.numel() * noise.element_size() for noise in self.layers.values())

    # -- how it travels, within a plan

    def settings(self) -> dict[str, Any]:
        """Everything but tensors, as JSON."""
        return {"targets": list(self.targets), "rankings": list(self.rankings), "group_by": self.group_by}

    def tensors(self, layers: Sequence[str]) -> dict[str, Tensor]:
        """All tensors by name, for layers in this order."""
        return {f"noise.{index}": self.layers[name] for index, name in enumerate(layers)}

    @classmethod
    def unpacked(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], layers: Sequence[str]) -> PlanNoise:
        """What `settings` and `tensors` gave."""
        noise = {name: tensors[f"noise.{index}"] for index, name in enumerate(layers)}
        return cls(tuple(settings["targets"]), tuple(settings["rankings"]), settings["group_by"], noise)
