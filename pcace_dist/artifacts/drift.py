"""Drift: do the rows of an extended run still lie within the plan's knots? Pure; no I/O, no Ray.

The plan is the base run's. A component beyond the ends of its knots is clamped to them, so that the scores do not see
differences beyond the ends. So the share of codes at the ends is compared, layer by layer, between the rows that were
taken over and those that are new.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from pcace_dist.artifacts.attempt import BlockPart, is_inherited
from pcace_dist.statistics import basis
from pcace_dist.statistics.plan import LayerPlan

MUCH_MORE = 2.0  # new rows at the ends, against the rows before: beyond this and
MARGIN = 0.01  # this much of all codes, a new plan is advised


@dataclass
class Ends:
    """Codes at the first or last knot, and codes in all, of rows taken over and of new rows; live components only."""

    inherited: int = 0
    inherited_codes: int = 0
    new: int = 0
    new_codes: int = 0

    def add(self, part: BlockPart, layer: LayerPlan, attempt: str) -> None:
        """The rows of one part, `layer` being the plan of its channels."""
        ends, codes = _ends(part, layer.live, layer.knots.shape[-1])
        if is_inherited(attempt):
            self.inherited, self.inherited_codes = self.inherited + ends, self.inherited_codes + codes
        else:
            self.new, self.new_codes = self.new + ends, self.new_codes + codes

    def plus(self, other: Ends) -> Ends:
        return Ends(
            self.inherited + other.inherited,
            self.inherited_codes + other.inherited_codes,
            self.new + other.new,
            self.new_codes + other.new_codes,
        )


def _ends(part: BlockPart, live: Tensor, knots: int) -> tuple[int, int]:
    ends = codes = 0
    if part.codes is not None:
        layer_codes = part.codes.codes
        ends += int((((layer_codes == 0) | (layer_codes == basis.top_code(knots))) & live).sum())
        codes += layer_codes.shape[0] * int(live.sum())
    if part.gram is not None:
        ends += int((part.gram.clamped * live).sum())
        codes += part.gram.images * int(live.sum())
    return ends, codes


def drift_of(parts: Iterable[tuple[str, Ends]]) -> dict[str, dict[str, float]]:
    """Shares by layer for summary.json: `before` and `new`; layers without rows of both kinds are left out."""
    layers: dict[str, Ends] = {}
    for name, ends in parts:
        layers[name] = layers.get(name, Ends()).plus(ends)
    return {
        name: {"before": round(ends.inherited / ends.inherited_codes, 6), "new": round(ends.new / ends.new_codes, 6)}
        for name, ends in layers.items()
        if ends.inherited_codes and ends.new_codes
    }


def advice(drift: dict[str, dict[str, float]]) -> str | None:
    """One line for people where new rows leave the plan's range; None where they do not."""
    beyond = [
        f"{name} {shares['new']:.1%} (before {shares['before']:.1%})"
        for name, shares in drift.items()
        if shares["new"] > MUCH_MORE * shares["before"] + MARGIN
    ]
    if not beyond:
        return None
    return f"new rows leave the plan's range: codes at its ends in {', '.join(beyond)}; rank anew without extend"
