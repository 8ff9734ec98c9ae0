"""What groups of images have in common: closed forms, and crops of two photographs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from examples.imagenet.photographs import _box
from pcace_dist.checks.alike import beginnings, findings_of, intraclass
from pcace_dist.checks.finding import WARNING


def test_intraclass_correlation_of_a_table_by_hand() -> None:
    values = np.array([[1.0], [3.0], [7.0], [9.0]])  # between: 36, within: 2
    assert intraclass(values, ["a", "a", "b", "b"]) == pytest.approx((36 - 2) / (36 + 2))
    assert intraclass(values, ["a", "b", "a", "b"]) == pytest.approx((4 - 18) / (4 + 18))
    assert intraclass(values, list("abcd")) == 0.0 == intraclass(values, list("aaaa"))
    assert intraclass(np.ones((4, 2)), ["a", "a", "b", "b"]) == 0.0


def test_intraclass_correlation_of_planted_groups() -> None:
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(400), random.integers(2, 6, 400))
    values = random.standard_normal(400)[groups] * 2 + random.standard_normal(len(groups))
    assert intraclass(values[:, None], groups.tolist()) == pytest.approx(4 / 5, abs=0.03)


def test_beginnings_of_ids() -> None:
    ids = ["street-12/3.jpg", "a_1.png", "a_2.tar.gz", "IMG0001.jpg", "p/q/r-7"]
    assert beginnings(ids) == ["street-12", "a", "a_2", "IMG0001", "p/q/r"]


def crops() -> tuple[torch.Tensor, list[str]]:
    """64 crops of 8 pictures (each photograph as it is, darker, ...), all of one size."""
    random, images, names = np.random.default_rng(0), [], []
    for number in range(64):
        picture = number % 8
        pixels = load_sample_images().images[picture % 2] // (1 + picture // 2)
        crop = Image.fromarray(pixels).crop(_box(640, 427, random)).resize((64, 64))
        images.append(torch.from_numpy(np.array(crop)).permute(2, 0, 1))
        names.append(f"picture{picture}")
    return torch.stack(images), names


def test_a_column_and_ids_that_name_the_photograph_are_found_and_others_are_not() -> None:
    images, names = crops()
    random = np.random.default_rng(1)
    columns = {"photo": names, "camera": random.integers(0, 9, 64).tolist(), "row": list(range(64))}
    found = list(findings_of(columns, None, images, [f"{name}-{number}.jpg" for number, name in enumerate(names)]))
    assert [finding.level for finding in found] == [WARNING, WARNING]
    assert found[0].write == "if they show the same, write dataset.fold_by: photo" and found[0].figures["values"] == 8
    assert found[1].evidence.startswith("the beginning of the ids has 8 values in 64 images")


def test_a_column_that_follows_from_the_class_is_none() -> None:
    images, names = crops()
    labels = [int(name[-1]) for name in names]
    assert list(findings_of({"name": names}, labels, images, None)) == []
