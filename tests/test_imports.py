"""Imports of a process of pcace's own: the collector is off meanwhile, Arrow leaves pandas out until it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("pandas")

PROGRAM = """
import gc, sys
from pcace_dist.imports import quick_imports
with quick_imports():
    assert not gc.isenabled()
    with quick_imports():  # within another one nothing is done
        pass
    assert not gc.isenabled()
    import pyarrow as pa
assert gc.isenabled() and gc.get_freeze_count() > 1000
table = pa.table({"a": [1, 2]})
assert "pandas" not in sys.modules, "Arrow has imported it"
assert table.to_pandas()["a"].tolist() == [1, 2]
import pandas
assert pa.array(pandas.Series([1.0, float("nan")])).null_count == 1
"""


def test_pandas_is_imported_when_it_is_needed_and_not_before() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)


def test_the_collector_is_on_again_after_an_import_that_fails() -> None:
    program = (
        "import gc\nfrom pcace_dist.imports import quick_imports\n"
        "try:\n    with quick_imports():\n        import pcace_dist.nothing\nexcept ModuleNotFoundError:\n    pass\n"
        "assert gc.isenabled()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
