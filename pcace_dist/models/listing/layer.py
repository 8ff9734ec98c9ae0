"""A layer that can be ranked, as data."""

from __future__ import annotations

from dataclasses import dataclass

UNKNOWN = "?"  # instead of a layout, where the job must say it


@dataclass(frozen=True)
class FoundLayer:
    """A layer that can be ranked.

    type: the module's class. channels: of its output. map: the shape of the output's positions: (7, 7), (197,) for
    tokens, () for a vector. layout: `BCHW`, `BNC`, ..., `BC` for a vector. Where nothing tells which axis is the
    channel, channels and map are None and layout is `?`; where the model was not run, map and layout are None.
    parameters: of the module and all in it. all: whether `layers: all` takes it. glob: selects it, and only layers like
    it.
    """

    name: str
    type: str
    channels: int | None
    map: tuple[int, ...] | None
    layout: str | None
    parameters: int
    all: bool
    glob: str
