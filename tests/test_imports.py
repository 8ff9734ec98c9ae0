"""Imports of a process of pcace's own: the collector is off meanwhile, and what is needed late is imported late."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("pandas")

PROGRAM = """
import gc
from pcace_dist.imports import quick_imports
with quick_imports():
    assert not gc.isenabled()
    with quick_imports():  # within another one nothing is done
        pass
    assert not gc.isenabled()
    import pyarrow as pa
assert gc.isenabled() and gc.get_freeze_count() > 1000
import pandas
assert pa.array(pandas.Series([1.0, float("nan")])).null_count == 1
"""


def test_imports_of_a_block_are_left_alone_by_the_collector_and_arrow_knows_pandas() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)


def test_the_collector_is_on_again_after_an_import_that_fails() -> None:
    program = (
        "import gc\nfrom pcace_dist.imports import quick_imports\n"
        "try:\n    with quick_imports():\n        import pcace_dist.nothing\nexcept ModuleNotFoundError:\n    pass\n"
        "assert gc.isenabled()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_run_and_its_workers_start_without_what_only_scores_need() -> None:
    program = (
        "import sys\nfrom pcace_dist.imports import quick_imports\n"
        "with quick_imports():\n"
        "    import pcace_dist.run.rank, pcace_dist.run.model_run, pcace_dist.worker.engine\n"
        "late = {'scipy', 'numba', 'torch._dynamo'} & set(sys.modules)\n"
        "assert not late, late"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
