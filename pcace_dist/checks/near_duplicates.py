"""Near-duplicates: images that show the same thing and would lie in different folds.

Two images are compared by the correlation of their gradients, at 16 x 16 pixels and at 32 x 32. A perceptual hash keeps
the signs of such gradients only, which is what an index of millions needs; all pairs of some hundred images are two
matrix products. Measured on 600 crops of 26 photographs: of 168,436 pairs of different photographs a difference hash
takes 40 for the same at 4 of 64 bits, this none. Of copies it finds 95 % at JPEG quality 30 (the hash 91 %), 98 % at
1.3 times the brightness (87 %), all at a third of the size, all that are shifted by 1/200 of the width, and half of
those at 1/100. It does not find crops that show different parts of one photograph, nor mirrored copies: alike.py looks
for what they have in common. Where images are small and simple some are alike by chance: 3 % of 512 MNIST digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pcace_dist.checks.finding import NOTE, WARNING, Finding

COARSE, FINE = (16, 0.9), (32, 0.9)  # pixels of a side, least correlation
SHARE = 0.1  # of images that have a near-duplicate, for a warning
MOST = 512  # images that are compared
WHAT = "dataset.fold_by"
FLAT = 1e-3  # of 0..255: the root mean square of gradients below which an image shows nothing


@dataclass(frozen=True)
class NearDuplicates:
    """images: how many were compared. pairs: their positions, of images that are alike and share no fold key."""

    images: int
    pairs: tuple[tuple[int, int], ...]

    @property
    def share(self) -> float:
        """Share of the images that are in a pair."""
        return len({image for pair in self.pairs for image in pair}) / max(1, self.images)


def thumbnails(images: Tensor) -> Tensor:
    """What is compared: the grey images at 32 x 32, float32 (n, 32, 32), from uint8 (n, C, H, W)."""
    grey = images.float().mean(1, keepdim=True)
    return torch.nn.functional.interpolate(grey, (FINE[0], FINE[0]), mode="area")[:, 0]


def near_duplicates(small: Tensor, fold_keys: Sequence[int]) -> NearDuplicates:
    """The pairs of near-duplicates among `thumbnails` (n, 32, 32).

    fold_keys: n; images with the same one share a fold anyway and are no pair.
    """
    alike = torch.ones(len(small), len(small), dtype=torch.bool).triu(1)
    for size, least in (COARSE, FINE):
        gradients = _gradients(small, size)
        alike &= (gradients @ gradients.T) >= least
    keys = np.asarray(fold_keys, dtype=np.uint64)
    alike &= torch.from_numpy(keys[:, None] != keys[None, :])
    pairs = [(int(one), int(other)) for one, other in alike.nonzero().tolist()]
    return NearDuplicates(len(small), tuple(pairs))


def _gradients(small: Tensor, size: int) -> Tensor:
    """Differences of neighbours at size x size, float32 (n, 2 * size * (size - 1)), of length 1; 0 where the image is
    flat."""
    if size < small.shape[-1]:
        small = torch.nn.functional.interpolate(small[:, None], (size, size), mode="area")[:, 0]
    gradients = torch.cat([small.diff(dim=1).flatten(1), small.diff(dim=2).flatten(1)], dim=1)
    length = gradients.norm(dim=1, keepdim=True)
    flat = length < FLAT * gradients.shape[1] ** 0.5
    return torch.where(flat, 0.0, gradients / length.clamp_min(FLAT))


def finding_of(found: NearDuplicates, *, fold_by: str | None, names: Sequence[str] = ()) -> Finding | None:
    """names: n, what the images are called, for an example. None where there is no pair."""
    if not found.pairs:
        return None
    first, second = found.pairs[0]
    example = f", for example {names[first]} and {names[second]}" if names else ""
    figures = {"images": found.images, "pairs": len(found.pairs), "share": round(found.share, 4)}
    column = "the column that says what images show the same (a video, a patient, a place)"
    if found.share < SHARE:
        evidence = f"{found.share:.1%} of {found.images} images look like another one{example}"
        return Finding(NOTE, WHAT, evidence, f"if they show the same, write {WHAT}: {column}", figures)
    apart = f"has another {fold_by}" if fold_by else "would lie in another fold"
    evidence = (
        f"{found.share:.0%} of {found.images} images have a near-duplicate that {apart}{example}: held-out images that "
        "are in the training folds too make scores and intervals look better than they are"
    )
    return Finding(WARNING, WHAT, evidence, f"write {WHAT}: {column}", figures)
