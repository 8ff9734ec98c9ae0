"""torchvision without the compiler of torch.compile, which is there as soon as it is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

IMPORT = """
import sys
import torch
disable = torch.compiler.disable
from pcace_dist.vision import functional, torchvision
assert not [name for name in sys.modules if name.startswith(("torch._dynamo", "torch._inductor", "sympy"))]
assert torch.compiler.disable is disable
"""
USE = """
boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
assert torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), [boxes], 2).tolist() == [[[[1.0, 1.0], [1.0, 1.0]]]]
image = torchvision.tv_tensors.Image(torch.zeros(3, 8, 8))
assert type(functional.resize(image, [4, 4])) is torchvision.tv_tensors.Image
assert "torch._dynamo" not in sys.modules
from torchvision.ops.roi_align import is_compile_supported
supported = is_compile_supported("cpu")
from torch._dynamo.utils import is_compile_supported as real
assert supported == real("cpu") and torchvision.tv_tensors.wrap.__name__ == "wrap"
assert type(functional.resize(image, [4, 4])) is torchvision.tv_tensors.Image
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).tolist() == [2.0]
"""
OTHERS = """
import sys, types
import torch
from pcace_dist import vision
sys.modules[vision._USED] = vision._Later(vision._USED)
from torch._dynamo.utils import counters
assert type(sys.modules[vision._USED]) is types.ModuleType and counters is sys.modules[vision._USED].counters
@vision._disable_later(recursive=False)
def two():
    return 2
assert two() == 2
"""
FROM_CODES = """
import sys
import pcace_dist.run.rank, pcace_dist.executors.threads, pcace_dist.worker.codes_engine
assert not {"torchvision", "PIL", "pcace_dist.worker.engine", "pcace_dist.datasets.loader"} & set(sys.modules)
"""
RUN = """
import sys
from pcace_dist.cli.main import main
less = ("dataset.path=examples/mnist/data/part-00000.parquet", "group_by=null", f"output={sys.argv[1]}")
assert main(["rank", "examples/mnist/job.yaml", *(part for key in less for part in ("--set", key))]) == 0
assert "torch._dynamo" not in sys.modules and "scipy.optimize" not in sys.modules
"""


def python(program: str, *arguments: str) -> None:
    threads = os.environ | {"PCACE_EXECUTOR": "threads"}
    command = [sys.executable, "-c", program, *arguments]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1], env=threads)


def test_it_does_the_same_and_loads_the_compiler_when_that_is_needed() -> None:
    python(IMPORT + USE)


@pytest.mark.jobs
@pytest.mark.parametrize("program", [OTHERS, "import torch._dynamo\n" + IMPORT.partition("assert")[0]])
def test_what_else_is_taken_from_the_compiler_loads_it_and_one_that_is_loaded_stays(program: str) -> None:
    python(program)


@pytest.mark.jobs
def test_a_run_does_not_load_the_compiler(tmp_path: Path) -> None:
    python(RUN, str(tmp_path / "run"))


def test_a_run_from_codes_imports_nothing_of_models_and_images() -> None:
    python(FROM_CODES)
