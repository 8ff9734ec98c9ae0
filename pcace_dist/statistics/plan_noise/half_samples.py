"""The plan's noise, from balanced half-samples of the pilot (McCarthy 1969). Pure: tensors in, tensors out.

Axes are chosen on the pilot's m rows; another m rows give other axes and another score. The rows lie in PARTS parts by
their fold keys; half h has the parts f with H_hf = +1, H a Hadamard matrix without its row of ones. With v_h the r^2 of
all rows on the axes of half h,

    psi_f  =  FACTOR sqrt((PARTS - 1) / (PARTS - 2)) sum over h of H_hf (v_h - mean v)

so that the variance of the mean of the psi_f is FACTOR^2 times the variance of the v_h. A half is as far from the whole
pilot as the pilot is from the population: nothing is extrapolated, as a jackknife would do (1.5 times too much: axes of
almost equal variance turn by any angle), nor scaled down, as quarters are (0.85, with 3 degrees of freedom).

The axes of a half lie in the span of the pilot's axes and the next few: five more are as good as fifteen. FACTOR: the
v_h are of the rows that the axes were chosen on, which makes them differ a little more than on other rows; it was set
on networks (docs/method.md, section 3). Knots and scales of pixels are not varied: the knots change the score by a
thirtieth of what the axes do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.statistics import basis
from pcace_dist.statistics.effects.plan import EVERY
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.plan import LayerPlan, TargetPlan
from pcace_dist.statistics.plan_noise.noise import PlanNoise
from pcace_dist.statistics.score import in_sample, required_images
from pcace_dist.statistics.solve import one_thread

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

PARTS = 16
FACTOR = 0.95
MOST_TARGETS = 16  # the others have no noise
MOST_RANKINGS = 64  # targets x rankings with a noise of their own
LEAST_SHARE = 0.25  # of the rows, in each half
_BLOCK = 128  # channels that are held at a time: more, and they leave the cache; fewer, and calls take the time
_KNOT_ROWS = 512  # from whose quantiles the knots of a half's components are taken
# each half or its complement, so that every part is in 5 to 10 of them: else the first one would be in all
_TURNED = np.array([1, 1, -1, 1, 1, 1, -1, 1, 1, 1, -1, -1, -1, -1, 1])
_HADAMARD = reduce(np.kron, [np.array([[1, 1], [1, -1]])] * 4)  # Sylvester's of order PARTS
SIGNS = _HADAMARD[1:] * _TURNED[:, None]  # (PARTS - 1, PARTS): whether a part is in a half


@dataclass(frozen=True, eq=False)
class HalfSamples:
    """Makes the noise of a plan, layer by layer.

    keys: fold keys uint64 (n,) of the pilot's rows; targets: their values, float64 (n,), by name; groups: the names of
    their groups, of the column `group_by`, or None. components, knots, tails, penalty: of the plan and the scores.
    threads: how many work at the same time; they make no difference to the result.
    """

    keys: npt.NDArray[np.uint64]
    targets: Mapping[str, Floats]
    components: int
    knots: int
    penalty: float
    groups: Sequence[str] | None = None
    group_by: str | None = None
    tails: float = 0.0
    threads: int = 1
    _layers: dict[str, Tensor] = field(default_factory=dict)

    def add(self, layer: LayerPlan, targets: Sequence[TargetPlan], components: Tensor) -> None:
        """A layer's noise. components: float32 (n, C, w), all rows projected on the layer's p axes and on the next."""
        if not self._is_enough:
            return
        live = layer.first_components(max(1, int(layer.live.sum(1).max())))  # maps of one position have one component
        known = targets[:MOST_TARGETS]
        codes = torch.stack([_codes(target, self.targets[target.name]) for target in known], 1)
        blocks = [slice(start, start + _BLOCK) for start in range(0, layer.channels, _BLOCK)]

        def noise(channels: slice) -> Tensor:
            return self._noise(live.block(channels), known, codes, components[:, channels])

        with one_thread(), ThreadPoolExecutor(self.threads, "pcace-noise", torch.set_num_threads, (1,)) as pool:
            self._layers[layer.name] = torch.cat(list(pool.map(noise, blocks)), dim=2)

    def finish(self) -> PlanNoise | None:
        """The noise of the layers added; None where the rows were too few."""
        if not self._layers:
            return None
        targets = tuple(self.targets)[:MOST_TARGETS]
        return PlanNoise(targets, (EVERY, *self._ranked), self.group_by, self._layers)

    @property
    def _least(self) -> int:
        """Rows that a ranking takes to have a noise of its own: half of what it takes for a score."""
        return required_images(self.components, self.knots) // 2

    @cached_property
    def _is_enough(self) -> bool:
        """Whether there are rows enough, and every half has some."""
        least = LEAST_SHARE * len(self.keys)
        return bool(self.targets) and len(self.keys) >= self._least and bool((self._halves.sum(1) >= least).all())

    @cached_property
    def _halves(self) -> npt.NDArray[np.bool_]:
        """Which rows are in each half: (PARTS - 1, n)."""
        return np.asarray(SIGNS[:, self._parts] > 0)

    @cached_property
    def _parts(self) -> Integers:
        return (self.keys % np.uint64(PARTS)).astype(np.int64)

    @cached_property
    def _ranked(self) -> list[str]:
        """The groups with the most rows, if these are enough, in the order of their names."""
        counts = Counter(self.groups or ()).most_common(MOST_RANKINGS // min(MOST_TARGETS, len(self.targets)) - 1)
        return sorted(name for name, rows in counts if rows >= self._least)

    @cached_property
    def _numbers(self) -> Integers:
        """The number of each row's group among those ranked, from 1; 0 for the others."""
        number = {name: index for index, name in enumerate(self._ranked, 1)}
        return np.array([number.get(name, 0) for name in self.groups or [EVERY] * len(self.keys)], np.int64)

    def _noise(self, layer: LayerPlan, targets: Sequence[TargetPlan], codes: Tensor, components: Tensor) -> Tensor:
        """float32 (T, R, C, PARTS) of some channels. codes: of the targets, uint8 (n, T)."""
        by_channel = components.transpose(0, 1).contiguous()
        squared = [
            self._squared(layer, targets, codes, torch.bmm(by_channel, axes).transpose(0, 1).contiguous())
            for axes in _half_axes(by_channel, torch.from_numpy(self._parts), layer.components)
        ]
        apart = np.stack(squared) - np.mean(squared, axis=0)
        weights = FACTOR * math.sqrt((PARTS - 1) / (PARTS - 2)) * SIGNS
        return torch.from_numpy(np.einsum("htcr,hf->trcf", apart, weights)).float()

    def _squared(self, layer: LayerPlan, targets: Sequence[TargetPlan], codes: Tensor, components: Tensor) -> Floats:
        """r^2 (T, C, R) of every ranking with these components, float32 (n, C, p), on knots of their own."""
        rows, channels, width = components.shape
        sample = components[:: max(1, rows // _KNOT_ROWS)].flatten(1)
        knots = basis.choose_knots(sample, self.knots, self.tails).reshape(channels, width, self.knots)
        gram = Gram(channels, width, len(targets), self.knots, 1 + len(self._ranked))
        unused = [torch.zeros((rows, count), dtype=torch.int16) for count in (channels, len(targets))]
        gram.update(basis.encode(components, knots), unused[0], codes, unused[1], self._numbers)
        groups = range(1, gram.folds)
        return in_sample(gram, replace(layer, knots=knots), targets, groups, penalty=self.penalty)


def _codes(target: TargetPlan, values: Floats) -> Tensor:
    """Codes uint8 (n,) of a target's values (n,)."""
    return basis.encode(torch.from_numpy(values).unsqueeze(1), torch.from_numpy(target.knots).unsqueeze(0))[:, 0]


def _half_axes(components: Tensor, parts: Tensor, width: int) -> Tensor:
    """The principal axes of each half, float32 (PARTS - 1, C, w, width), of components float32 (C, n, w)."""
    by_part = [components[:, parts == part].double() for part in range(PARTS)]
    sums = torch.stack([rows.sum(1) for rows in by_part])
    squares = torch.stack([rows.mT @ rows for rows in by_part])
    counts = torch.tensor([rows.shape[1] for rows in by_part]).double()
    halves = torch.from_numpy(SIGNS > 0).double()
    n = (halves @ counts)[:, None, None]
    mean = torch.einsum("hf,fcw->hcw", halves, sums) / n
    covariance = torch.einsum("hf,fcvw->hcvw", halves, squares) / n.unsqueeze(3) - mean.unsqueeze(3) * mean.unsqueeze(2)
    vectors: Tensor = torch.linalg.eigh(covariance)[1]
    return vectors.flip(3)[..., :width].float()
