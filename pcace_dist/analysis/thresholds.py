"""When a comparison counts as drift: the thresholds of `pcace compare` and `pcace rerank`, and their reasons. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pcace_dist.analysis.compare import Comparison


@dataclass(frozen=True)
class MaxMoved:
    """The largest number of channels that may move: a number, or a share of the judged channels."""

    value: float
    share: bool

    @staticmethod
    def parse(text: str) -> MaxMoved:
        """'12' is a number of channels, '5%' and '0.05' are shares. Raises ValueError."""
        share = text.strip().endswith("%") or "." in text
        value = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
        if value < 0 or (share and value > 1):
            raise ValueError(text)
        return MaxMoved(value, share)

    def __str__(self) -> str:
        return f"{100 * self.value:g} %" if self.share else f"{self.value:g}"


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of drift; None: no threshold."""

    min_tau: float | None = None
    min_overlap: float | None = None
    max_moved: MaxMoved | None = None
    max_effects_moved: MaxMoved | None = None

    def __bool__(self) -> bool:
        every = (self.min_tau, self.min_overlap, self.max_moved, self.max_effects_moved)
        return any(value is not None for value in every)


def drift(comparison: Comparison, thresholds: Thresholds) -> list[str]:
    """The reasons why a comparison exceeds its thresholds; empty where it does not."""
    return list(_reasons(comparison, thresholds))


def _reasons(comparison: Comparison, thresholds: Thresholds) -> Iterator[str]:
    if comparison.verdict == "not comparable":
        return
    overall, counts = comparison.overall, comparison.counts
    if thresholds.min_tau is not None and not overall["kendall"] >= thresholds.min_tau:
        yield f"Kendall's tau is {overall['kendall']:.3f}, below --min-tau {thresholds.min_tau:g}"
    if thresholds.min_overlap is not None and not overall["overlap"] >= thresholds.min_overlap:
        top = comparison.settings.top
        yield f"the top {top} overlap by {overall['overlap']:.3f}, below --min-overlap {thresholds.min_overlap:g}"
    for most, kind, what, option in (
        (thresholds.max_moved, "", "channels", "--max-moved"),
        (thresholds.max_effects_moved, "effects_", "effects", "--max-effects-moved"),
    ):
        moved, judged = counts[f"{kind}moved"], counts[f"{kind}judged"]
        if most is not None and moved > (most.value * judged if most.share else most.value):
            yield f"{moved:,} of {judged:,} {what} moved, more than {option} {most}"
