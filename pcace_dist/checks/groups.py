"""How many images a ranking takes, and what to write where there are fewer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pcace_dist.checks.finding import ERROR, NOTE, WARNING, Finding, Level
from pcace_dist.statistics.score import most_components, required_images, usable_images

NAMED = 5


def finding_of(sizes: Mapping[str, int], *, grouped: str | None, components: int, knots: int, exact: bool) -> Finding:
    """sizes: images by the group's name, one entry without groups. exact: whether all rows were counted."""
    needed = required_images(components, knots)
    small = {name: count for name, count in sizes.items() if count < needed}
    about = "" if exact else "about "
    figures: dict[str, Any] = {"groups": len(sizes), "needed": needed, "too_small": len(small)}
    figures |= {"smallest": min(sizes.values()), "largest": max(sizes.values())}
    what = f"group_by {grouped}" if grouped else "dataset"
    if not small:
        least = min(sizes.values())
        evidence = f"{about}{least:,} images{' in the smallest group' if grouped else ''}; a score takes {needed}"
        usable = usable_images(components, knots)
        if least >= usable:
            return Finding(NOTE, what, evidence, "", figures)
        return Finding(NOTE, what, evidence, f"expect wide intervals below {usable:,} images", figures)
    level: Level = ERROR if len(small) == len(sizes) and exact else WARNING
    largest = sorted(small.items(), key=lambda item: -item[1])
    named = ", ".join(f"{name} {count:,}" for name, count in largest[:NAMED])
    evidence = f"a ranking takes {needed} images; {about}{largest[0][1]:,} are there"
    if grouped:
        count = f"{len(small)} of {len(sizes)} groups have" if len(sizes) > 1 else "the group has"
        evidence = f"a ranking takes {needed} images, and {about}{count} fewer ({named})"
    return Finding(level, what, evidence, _instead(largest, components, knots, grouped), figures)


def _instead(small: list[tuple[str, int]], components: int, knots: int, grouped: str | None) -> str:
    """What would rank the most groups."""
    options = [most_components(count, knots, components) for _, count in small]
    possible = [count for count in options if count]
    fewer = [f"statistics.components: {min(possible)}"] if possible else []
    if possible and len(possible) < len(small):
        fewer = [f"statistics.components: {min(possible)} (ranks {len(possible)} of them)"]
    pooled = ["larger groups, or group_by: null"] if grouped else ["more images"]
    return "write " + ", or take ".join([*fewer, *pooled]) if fewer else f"take {pooled[0]}"
