"""Ranking from kept codes at full size: 1.28 million rows x 512 channels, in 1 and in 1,000 groups.

    python -m tests.benchmarks.codes_scale [--rows 1280000] [--channels 512] [--groups 1 1000] ...

Writes the synthetic codes as the run of a model would have (layout, index, plan), then runs the real job on them, each
in a process of its own: as threads of it where the work is small, else on a Ray of its own. Rows come in any order of
groups. Prints seconds by stage, the peak memory of the driver, of all its processes together (Ray's included; pages
that they share count once), the bytes of the codes, and the load of the machine, for it makes all figures worse.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from examples.street.watched import sample
from pcace_dist.artifacts.attempt import CODES_FILE, attempt_key
from pcace_dist.artifacts.codes.columns import KeptRows
from pcace_dist.artifacts.codes.index import CodesIndex, CodesPart, publish_index
from pcace_dist.artifacts.codes.writer import CodesWriter
from pcace_dist.artifacts.plan_metadata import PlanMetadata
from pcace_dist.artifacts.plan_store import plan_key
from pcace_dist.artifacts.run import open_run
from pcace_dist.config.job import parse_job
from pcace_dist.datasets.rows import RowRef
from pcace_dist.run.rank import run_job
from pcace_dist.statistics.basis import top_code
from pcace_dist.statistics.lanes import LANES, SOLVERS
from pcace_dist.statistics.plan import LayerCodes, LayerPlan, Plan, make_target_plan
from pcace_dist.storage.store import LocalStore

COMPONENTS, KNOTS, FOLDS = 5, 9, 16
UNIT = 1024  # rows of a row group
PART = 65536  # rows of a codes file


@dataclass(frozen=True)
class Result:
    """One ranking: seconds of the whole job and by stage, peak memory of the driver, the machine's load at its end."""

    groups: int
    rows: int
    channels: int
    workers: int
    seconds: float
    cpu_seconds: float
    stages: dict[str, float]
    peak_bytes: int
    codes_bytes: int
    load: float


def synthetic_plan(channels: int, solver: str = LANES) -> Plan:
    """Knots at the quantiles of a standard normal component."""
    random = torch.Generator().manual_seed(0)
    knots = torch.linspace(-3, 3, KNOTS).expand(channels, COMPONENTS, KNOTS).contiguous()
    one = torch.ones(channels, COMPONENTS)
    layer = LayerPlan(
        name="layer4.1.conv2",
        shape=(7, 7),
        channels=channels,
        weights=torch.randn(channels, 49, COMPONENTS, generator=random),
        offsets=torch.zeros(channels, COMPONENTS),
        knots=knots,
        spread=one,
        live=one.bool(),
        explained=one / COMPONENTS,
        mean_centre=torch.zeros(channels, dtype=torch.float64),
        mean_unit=torch.full((channels,), 1e-3, dtype=torch.float64),
    )
    target = make_target_plan("logit:label", np.random.default_rng(0).standard_normal(4096), KNOTS)
    facts = PlanMetadata(
        32,
        "float32",
        (224, 224),
        1000,
        "synthetic",
        {"device": "cpu"},
        {layer.name: [1.0] * channels},
        solver=solver,
    )
    return Plan((layer,), (target,), COMPONENTS, KNOTS, FOLDS, "pixel", 2048, facts.to_json())


def write_codes(folder: Path, rows: int, channels: int, groups: int, solver: str) -> None:
    """A run with kept codes whose channels follow the target more or less; `label` names one of the groups."""
    plan = synthetic_plan(channels, solver)
    store = LocalStore(str(folder))
    store.put(plan_key(plan.digest), plan.to_bytes())
    kept = pa.schema([("label", pa.int64())])
    random = np.random.default_rng(1)
    strength = np.linspace(0.9, 0.0, channels, dtype=np.float32)
    parts = []
    for start in range(0, rows, PART):
        writer = CodesWriter(plan, kept)
        for first in range(start, min(rows, start + PART), UNIT):
            count = min(UNIT, rows - first)
            y = random.standard_normal(count)
            shape = (count, channels, COMPONENTS)
            noise = random.standard_normal(shape, dtype=np.float32)
            noise[:, :, 0] += (strength * y[:, None]).astype(np.float32)
            codes = np.clip(np.rint((noise + 3) / 6 * top_code(KNOTS)), 0, top_code(KNOTS)).astype(np.uint8)
            means = np.clip(np.rint(noise[:, :, 0] * 1000), -16384, 16384).astype(np.int16)
            refs = [
                RowRef("images.parquet", first // UNIT, first + i, f"images.parquet#{first + i}") for i in range(count)
            ]
            labels = random.integers(0, groups, count)
            keys = random.integers(0, 2**63, count).astype(np.uint64)
            held = KeptRows(refs, keys, [{"label": int(label)} for label in labels], y[:, None])
            writer.add(held, {"layer4.1.conv2": LayerCodes(torch.from_numpy(codes), torch.from_numpy(means))})
        attempt = f"e00001-a0001-f{start // PART + 1:05d}"
        data = writer.finish()
        assert data is not None
        store.put(attempt_key(attempt, CODES_FILE), data)
        parts.append(CodesPart(attempt_key(attempt, CODES_FILE), min(rows, start + PART) - start, len(data)))
    publish_index(store, CodesIndex(plan.digest, "synthetic", "synthetic", None, tuple(parts)))
    store.put("summary.json", b"{}")  # the names of classes are looked for in the run


def rank(folder: Path, output: Path, groups: int, workers: int, memory: str | None) -> Result:
    """The real job, in this process."""
    job: dict[str, Any] = {
        "dataset": {"path": str(folder)},
        "model": {"factory": "unused:unused", "weights": "factory"},
        "layers": "all",
        "target": {"logit": "label"},
        "group_by": None if groups == 1 else "label",
        "workers": {"max": workers},
        "statistics": {"memory": memory},
        "output": str(output),
    }
    start, cpu = time.monotonic(), time.process_time()
    assert run_job(parse_job(job)) == 0
    run = open_run(str(output))
    return Result(
        groups,
        run.summary["images"],
        run.ranking(group=None if groups == 1 else 0).num_rows,
        workers,
        round(time.monotonic() - start, 1),
        round(time.process_time() - cpu, 1),
        run.summary["stages"],
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        sum(path.stat().st_size for path in folder.glob("attempts/*/codes.parquet")),
        os.getloadavg()[0],
    )


class PeakMemory:
    """Looks again and again how much a process and all that it started hold together (proportional set sizes)."""

    def __init__(self, pid: int, *, every: float = 1.0) -> None:
        self._pid, self._every = pid, every
        self._peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def end(self) -> int:
        """The most bytes that were seen."""
        self._over.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            now = sample(self._pid)
            self._peak = max(self._peak, now["command"] + now["workers"] + now["rest"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.codes_scale", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_280_000)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 1000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", help="statistics.memory of a worker, like 512MiB; without it the service's choice")
    parser.add_argument("--codes", type=Path, help="a folder that holds the codes of an earlier call, or will")
    parser.add_argument("--solver", choices=SOLVERS, default=LANES, help="of the plan of codes that are written")
    parser.add_argument("--json", type=Path, default=Path("codes_scale.json"))
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        codes = arguments.codes or Path(scratch) / "codes"
        if not (codes / "codes" / "index.json").exists():
            write_codes(codes, arguments.rows, arguments.channels, max(arguments.groups), arguments.solver)
        if arguments.output is not None:
            found = rank(codes, arguments.output, arguments.groups[0], arguments.workers, arguments.memory)
            print(json.dumps(asdict(found)))
            return
        results = []
        for groups in arguments.groups:  # each in a process of its own: peak memory never goes down again
            own = ["--codes", str(codes), "--groups", str(groups), "--workers", str(arguments.workers)]
            own += ["--memory", arguments.memory] if arguments.memory else []
            command = [sys.executable, "-m", "tests.benchmarks.codes_scale", *own, "--output", f"{scratch}/{groups}"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
                assert running.stdout is not None
                peak = PeakMemory(running.pid)
                lines = running.stdout.read().splitlines()
            assert running.returncode == 0
            results.append(json.loads(lines[-1]) | {"peak_of_all_bytes": peak.end()})
            stages = results[-1]["stages"]
            results[-1]["reduce and rank, s"] = stages["reduce"] + stages["rank"]
            print(json.dumps(results[-1], indent=2), flush=True)
    arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
