"""What the caller of a report asked for. Plain data; no I/O."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReportOptions:
    """Settings of one report.

    top: best and as many worst channels of each layer that get pictures (None: by the number of layers); layers and
    groups: names, as text (None: all, as many as fit); synthesis: draw images that excite the channels; device: cpu,
    cuda or auto; against: a second run to compare with; output: where the page goes (None: report.html in the run).
    """

    top: int | None = None
    layers: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    synthesis: bool = True
    device: str = "auto"
    against: str | None = None
    output: str | None = None
    seed: int = 0
    steps: int = 48  # of activation maximisation
