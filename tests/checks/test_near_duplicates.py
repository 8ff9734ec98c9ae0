"""Near-duplicates: copies of the two photographs in scikit-learn, and the project's own streets and digits."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images
from torch import Tensor

from pcace_dist.checks.finding import NOTE, WARNING
from pcace_dist.checks.near_duplicates import NearDuplicates, finding_of, near_duplicates, thumbnails
from tests.digits import digits_table

PHOTOGRAPHS = [Image.fromarray(pixels) for pixels in load_sample_images().images]


def small(*images: Image.Image) -> Tensor:
    tensors = [torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] for image in images]
    return torch.cat([thumbnails(tensor) for tensor in tensors])


def encoded(image: Image.Image, quality: int) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(data).convert("RGB")


def pairs_of(thumbnails: Tensor) -> NearDuplicates:
    """Each image is a file of its own."""
    return near_duplicates(thumbnails, range(len(thumbnails)))


def windows(image: Image.Image, by: int) -> list[Image.Image]:
    """Two windows of the photograph, one shifted by so many pixels of its 640."""
    return [image.crop((left, 0, left + 600, 427)) for left in (0, by)]


@pytest.mark.parametrize("image", PHOTOGRAPHS, ids=["china", "flower"])
def test_copies_are_near_duplicates(image: Image.Image) -> None:
    copies = [
        encoded(image, 30),
        image.resize((image.width // 3, image.height // 3)),
        ImageEnhance.Brightness(image).enhance(1.3),
        image.convert("L").convert("RGB"),
    ]
    assert {pair for pair in pairs_of(small(image, *copies)).pairs if pair[0] == 0} == {
        (0, number) for number in range(1, 5)
    }
    assert pairs_of(small(*windows(image, 3))).pairs == ((0, 1),)


def test_different_photographs_and_different_parts_of_one_are_none() -> None:
    china, flower = PHOTOGRAPHS
    mirrored = china.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    quarter = [china.crop((left, top, left + 320, top + 213)) for left in (0, 320) for top in (0, 213)]
    assert pairs_of(small(china, flower, mirrored, *quarter)).pairs == ()


def test_images_of_one_fold_are_no_pair() -> None:
    images = small(PHOTOGRAPHS[0], encoded(PHOTOGRAPHS[0], 50))
    assert near_duplicates(images, [2**64 - 1, 2**64 - 1]).pairs == ()
    assert near_duplicates(images, [1, 2]).pairs == ((0, 1),)


def test_flat_images_are_alike_in_nothing() -> None:
    flat = torch.stack([torch.full((3, 40, 40), level, dtype=torch.uint8) for level in (0, 9, 255)])
    assert pairs_of(thumbnails(flat)).pairs == ()


def test_digits_of_one_hand_are_not_worth_a_warning() -> None:
    rows = digits_table(0, 500)["image"].to_pylist()
    images = [np.array(Image.open(io.BytesIO(row["bytes"]))) for row in rows]
    found = pairs_of(thumbnails(torch.from_numpy(np.stack(images))[:, None]))
    assert 0 < found.share < 0.05
    finding = finding_of(found, fold_by=None)
    assert finding is not None and finding.level == NOTE


def test_the_finding_names_two_images_and_the_key() -> None:
    found = NearDuplicates(20, ((3, 4), (4, 5)))
    finding = finding_of(found, fold_by="street", names=[f"row-{n}" for n in range(20)])
    assert finding is not None and finding.level == WARNING
    assert finding.evidence.startswith("15% of 20 images have a near-duplicate that has another street, for example ")
    assert "row-3 and row-4" in finding.evidence and finding.write.startswith("write dataset.fold_by: ")
    assert finding_of(NearDuplicates(20, ()), fold_by=None) is None
