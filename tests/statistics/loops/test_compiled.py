"""Loops as machine code: loaded once they would have saved the time of loading."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pcace_dist.statistics.loops import compiled


def test_a_loop_pays_once_it_would_have_saved_the_time_of_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_saved", [0.0])
    third = 0.4 * compiled.LOADING
    assert [compiled.pays(third) for _ in range(4)] == [False, False, True, True]
    assert compiled.pays(0.0), "it is loaded now"
    monkeypatch.setattr(compiled, "has_numba", lambda: False)
    assert not compiled.pays(third)


def test_where_the_compiler_is_loaded_every_loop_pays() -> None:
    program = (
        "from pcace_dist.statistics.loops import compiled\n"
        "assert not compiled.pays(0.0)\n"
        "compiled.compiler()\n"
        "assert compiled.pays(0.0)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_small_rankings_do_not_load_the_compiler() -> None:
    program = (
        "import sys\n"
        "import numpy as np\n"
        "from pcace_dist.statistics.order.ranks import rank_channels\n"
        "from tests.statistics.helpers import gram_of, identity_plan\n"
        "x, y = np.random.default_rng(0).normal(size=(2, 300, 16, 3))\n"
        "plan = identity_plan(x, {'y': y[:, 0, 0]})\n"
        "gram_of(plan, x, {'y': y[:, 0, 0]}, np.arange(300) % 16)\n"
        "rank_channels(y[0, :, 0], y[:16].reshape(16, -1)[:, :16], np.ones(16, bool))\n"
        "assert 'numba' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_nothing_to_do_is_nothing_done() -> None:
    slices: list[slice] = []
    compiled.in_slices(slices.append, 0)
    assert slices == []
    compiled.in_slices(slices.append, 1)
    assert slices == [slice(0, 1)]
