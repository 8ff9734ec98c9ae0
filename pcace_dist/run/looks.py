"""The checks of `stop`, as summary.json has them, in words: for the progress of a run and `pcace status`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def last_look(summary: Mapping[str, Any]) -> str | None:
    """The last check of a run in words; None where there is none, or where an earlier version made it."""
    looks = summary.get("stop", {}).get("looks", ())
    return look_in_words(looks[-1]) if looks and "surely" in looks[-1] else None


def look_in_words(look: Mapping[str, int]) -> str:
    """A check of `stop`, as summary.json has it. Of several rankings: the fewest that are surely in, the most that may
    be."""
    of_several = f" (the least settled of {look['rankings']:,} rankings)" if look["rankings"] > 1 else ""
    return (
        f"look {look['look']}, {look['images']:,} images: in the top {look['top']} surely {look['surely']}, possibly "
        f"{look['possibly']}{of_several}; {look['open_pairs']:,} pairs at its border are unsettled"
    )
