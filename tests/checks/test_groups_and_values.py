"""Images per group against the number that a score takes; the range of values that a model is given."""

from __future__ import annotations

import pytest
import torch

from pcace_dist.checks import groups, values
from pcace_dist.checks.finding import ERROR, NOTE, WARNING

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def told(sizes: dict[str, int], *, exact: bool = True) -> tuple[str, str, str]:
    grouped = None if list(sizes) == [""] else "label"
    finding = groups.finding_of(sizes, grouped=grouped, components=5, knots=9, exact=exact)
    return finding.level, finding.evidence, finding.write


def test_groups_that_are_too_small_are_named_with_what_would_do() -> None:
    level, evidence, write = told({"cat": 400, "dog": 60, "cow": 20})
    assert level == WARNING
    assert evidence == "a ranking takes 96 images, and 2 of 3 groups have fewer (dog 60, cow 20)"
    assert write == "write statistics.components: 2 (ranks 1 of them), or take larger groups, or group_by: null"


def test_no_group_is_large_enough() -> None:
    assert told({"cat": 90, "dog": 60})[0] == ERROR
    assert told({"cat": 90, "dog": 60}, exact=False)[0] == WARNING
    level, evidence, write = told({"": 60})
    assert (level, evidence) == (ERROR, "a ranking takes 96 images; 60 are there")
    assert write == "write statistics.components: 2, or take more images"
    assert told({"": 20})[2] == "take more images"


def test_enough_images_are_a_note() -> None:
    assert told({"cat": 500, "dog": 480}) == (NOTE, "480 images in the smallest group; a score takes 96", "")
    assert told({"": 100}) == (NOTE, "100 images; a score takes 96", "expect wide intervals below 480 images")


def noise() -> torch.Tensor:
    return torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mean, std", [IMAGENET, ([0.0] * 3, [1.0] * 3), ([0.5] * 3, [0.5] * 3)])
def test_usual_inputs_are_notes(mean: list[float], std: list[float]) -> None:
    assert values.finding_of(noise(), mean, std).level == NOTE


def test_mean_and_std_of_pixels_up_to_255_are_seen_and_converted() -> None:
    finding = values.finding_of(noise(), [123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    assert finding.level == WARNING
    assert finding.write.endswith("write mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]")


def test_values_up_to_255_and_images_of_one_colour_are_seen() -> None:
    assert "within 5 of 0" in values.finding_of(noise(), [0.0] * 3, [1 / 255] * 3).evidence
    assert "one colour" in values.finding_of(torch.full_like(noise(), 7), *IMAGENET).evidence
