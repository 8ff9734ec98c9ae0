"""The options of a report. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

from pcace_dist.reporting.sight.synthesis import STEPS


@dataclass(frozen=True)
class ReportOptions:
    """Settings of one report.

    top: so many of the best and of the worst channels of each layer get pictures (None: by the number of layers);
    layers and groups: names, as text (None: all, as many as fit); synthesis: compute images that excite the channels;
    images: show pictures of the data at all; blur: show them so small that little is made out; device: cpu, cuda or
    auto; against: a second run to compare with; output: the path of the page (None: report.html in the run);
    pdf: print it too, beside it; labels: `module:function`, an image-text model that names channels, and its words
    (None: names of classes and columns).
    """

    top: int | None = None
    layers: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    synthesis: bool = True
    images: bool = True
    blur: bool = False
    device: str = "auto"
    against: str | None = None
    output: str | None = None
    pdf: bool = False
    labels: str | None = None
    words: tuple[str, ...] | None = None
    seed: int = 0
    steps: int = STEPS  # of activation maximisation
