"""The study's differences against textbook formulas, and its protocol."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pcace_dist.analysis.standings import Judged
from tests.benchmarks.ablation.study import read_protocol, seeds_of
from tests.benchmarks.ablation.table import areas_table, claims, difference, differences_table

NAMES = ("effect", "taylor", "random")


def training(areas: tuple[float, float, float], seed: int, noise: float = 0.01) -> Judged:
    pseudo = np.array(areas)[:, None] + np.random.default_rng(seed).normal(0, noise, (3, 16))
    return Judged("lost", NAMES, pseudo.mean(axis=1), pseudo, 4)


def test_a_difference_has_the_intervals_of_paired_t_tests() -> None:
    one = training((0.5, 0.4, 0.1), 0)
    alone = difference([one], "effect", "taylor")
    expected = stats.ttest_rel(one.pseudo[0], one.pseudo[1]).confidence_interval()
    assert (alone.mean - alone.by_images, alone.mean + alone.by_images) == pytest.approx(tuple(expected))
    assert np.isnan(alone.by_trainings) and alone.significant == 1
    many = [training((0.5, 0.4 + shift, 0.1), seed) for seed, shift in enumerate((0.0, 0.05, -0.05))]
    both = difference(many, "effect", "taylor")
    means = [own.area[0] - own.area[1] for own in many]
    expected = stats.ttest_1samp(means, 0).confidence_interval()
    assert (both.mean - both.by_trainings, both.mean + both.by_trainings) == pytest.approx(tuple(expected))
    assert both.significant == 0, "above by images, not by trainings"
    assert difference(many, "taylor", "effect").significant == -1, "below by one of the two is below"


def test_what_the_claim_loses_is_named() -> None:
    found = {"a": [{"lost": training((0.5, 0.4, 0.1), 0)}], "b": [{"lost": training((0.3, 0.35, 0.1), 1)}]}
    lines = list(claims(found, ["lost"], "effect", ["taylor", "random"]))
    assert len(lines) == 1 and "to taylor" in lines[0] and lines[0].endswith("significantly below on b")
    assert list(claims({"a": found["a"]}, ["lost"], "effect", ["taylor", "random"])) == []
    areas = list(areas_table(found, "lost", NAMES))
    assert areas[0] == "| 1 - r^2 | a (1) | b (1) | mean |" and areas[2].startswith("| effect | **0.")
    assert "**-**" in list(differences_table(found, "lost", "effect", ["taylor"]))[-1]


def test_the_protocol_is_read(tmp_path: Path) -> None:
    path = Path(__file__).parent / "protocol.yaml"
    protocol = read_protocol(path, mnist=tmp_path, photos=tmp_path, work=tmp_path / "work")
    assert len(seeds_of(protocol, [])) == 12 and len(seeds_of(protocol, ["street_cnn"])) == 3
    assert protocol.networks[0].job["dataset"]["path"] == str(tmp_path / "work" / "digits-5-6000")
