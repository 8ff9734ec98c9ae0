"""Heavy tails, atoms and rare events: against acepack, whose values reference/make_acepack.py has computed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pcace_dist.statistics.ace import ace
from tests.statistics.heavy_tails import CASES, LAWS, SAMPLES
from tests.statistics.reference.make_acepack import STORED
from tests.statistics.tails import of_law

HELD_OUT, SCORE = 0, 2  # of `of_law`
REFERENCE = json.loads(STORED.read_text())["cases"]


@pytest.mark.parametrize("law", LAWS)
def test_sample_level_ace_is_acepack_s(law: str) -> None:
    """Where maps are 0 in most rows, the order of ties matters to the supersmoother."""
    differences = [
        np.abs(ace(x[:, :, None], y).score - np.array(REFERENCE[f"{case.name}-{number}"]["score"]))
        for case in CASES
        if case.law == law and case.rows <= 1000
        for number in range(SAMPLES)
        for x, y in [case.sample(number)]
    ]
    assert np.max(differences) < (0.05 if law == "zero-inflated" else 0.001)
    assert np.mean(differences) < 0.01


def test_tails_take_a_score_away_that_rests_on_a_rare_event() -> None:
    rare, broad = (next(case for case in CASES if case.name == name) for name in ("tail-event-5000", "lognormal-5000"))
    for number in range(SAMPLES):
        plain, robust = (of_law(rare, number, tails)[SCORE] for tails in (0.0, 0.01))
        assert plain > 0.7 and robust < 0.3
        plain, robust = (of_law(broad, number, tails)[SCORE] for tails in (0.0, 0.01))
        assert robust == pytest.approx(plain, abs=0.01)


@pytest.mark.statistics
@pytest.mark.parametrize("law", ["lognormal", "zero-inflated", "cubed"])
def test_tails_predict_as_well_where_the_dependence_is_broad(law: str) -> None:
    """Held out: better from 300 rows, the same within 0.003 from more."""
    for case in CASES:
        if case.law == law:
            plain, robust = (
                np.mean([of_law(case, n, tails)[HELD_OUT] for n in range(SAMPLES)]) for tails in (0.0, 0.01)
            )
            assert robust - plain > (0.002 if case.rows == 300 else -0.003)
