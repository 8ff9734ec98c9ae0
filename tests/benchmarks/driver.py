"""What the driver takes for each unit and attempt, and how many requests a run makes of S3: simulated workers, the real
driver (simulation.py).

Goals: the driver keeps up with 50,000 images a second of 200 workers, with half of a core to spare; no second has more
requests than S3 takes for a prefix (3,500 puts, 5,500 gets).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache

import torch

from pcace_dist.artifacts.attempt import blocks_of, write_attempt
from pcace_dist.artifacts.examples import ExampleRows
from pcace_dist.datasets.rows import RowRef
from pcace_dist.datasets.units import UNIT_BYTES, RowGroupRef, Unit
from pcace_dist.ledger.ledger import FileRef
from pcace_dist.statistics.basis import top_code
from pcace_dist.statistics.effects.grid import GRID
from pcace_dist.statistics.group_accumulator import GroupAccumulator, RowCodes
from pcace_dist.statistics.plan import LayerCodes, Plan
from tests.benchmarks.codes_scale import synthetic_plan
from tests.benchmarks.harness import Answer, Settings, Value
from tests.benchmarks.predict import RESNET50
from tests.benchmarks.simulation import GETS, LIMITS, PUTS, Simulated, Work, simulate
from tests.memory_store import MemoryStore

TITLE = "the driver and S3 with simulated workers (a clock that jumps; requests of the busiest second)"
IMAGENET, STREET = (1_281_167, 110_000), (10_000_000, 90_000)  # images, bytes of each


def ask(settings: Settings) -> Answer:
    """64 workers over ImageNet, one layer and all of ResNet-50, then 200 over ten million images, 50,000 a second."""
    one, all_ = network_plan((512,)), network_plan(RESNET50)
    share = settings.pick(20, 1)  # quick: of the images
    cases = {
        "64 workers, 1 layer": (64, work_of(one, *IMAGENET, rate=2375, share=share)),
        "64 workers, all 53": (64, work_of(all_, *IMAGENET, rate=2000, share=share)),
        "200 workers, 1 layer": (200, work_of(one, *STREET, rate=250, share=share)),
    }
    found = {name: simulate(work, workers) for name, (workers, work) in cases.items()}
    return Answer(
        {name: line(one) for name, one in found.items()},
        notes=(f"S3 takes {LIMITS[PUTS]:,} puts and {LIMITS[GETS]:,} gets a second of a prefix; a run has one",),
        details={name: asdict(one) for name, one in found.items()},
    )


def line(one: Simulated) -> dict[str, Value]:
    return {
        "images/s": one.rows / one.main_pass,
        "units": one.units,
        "attempts": one.attempts,
        "driver, ms a unit": 1e3 * one.driver / one.units,
        "driver, of a core": one.driver / one.main_pass,
        "records": one.records,
        "puts": one.puts,
        "puts/s at most": one.busiest_puts,
        "gets": one.gets,
        "gets/s at most": one.busiest_gets,
    }


def network_plan(channels: Sequence[int]) -> Plan:
    """A plan with layers of so many channels, whose axes are small."""
    plan = synthetic_plan(max(channels))
    (widest,) = plan.layers
    layers = tuple(
        replace(widest.block(slice(0, count)), name=f"layer{at:02d}", weights=widest.weights[:count, :1], shape=(1, 1))
        for at, count in enumerate(channels)
    )
    return replace(plan, layers=layers)


def work_of(plan: Plan, images: int, image_bytes: int, *, rate: float, share: int = 1) -> Work:
    """`share`: one of so many of the units only."""
    rows = UNIT_BYTES // image_bytes
    units = [
        Unit.of([RowGroupRef(f"s3://bucket/part-{at:05d}.parquet", f"part-{at:05d}.parquet", 1 << 26, "v", 0, 0, rows)])
        for at in range(images // rows // share)
    ]
    return Work(plan, units, image_bytes, rate, attempt_files(plan))


def attempt_files(plan: Plan) -> Mapping[str, FileRef]:
    """The files of one attempt with many rows: names of one with few rows, and in place of its codes Grams, of so many
    bytes a channel as a real one has."""
    channel = gram_bytes()
    sizes = {block.file: channel * (block.stop - block.start) for block in blocks_of(plan)}
    return {name: replace(ref, size=sizes.get(name, ref.size)) for name, ref in written(plan, rows=32).items()}


@cache
def gram_bytes(channels: int = 4, rows: int = 12_288) -> int:
    """Bytes of a channel in the file of a block that was written as a Gram: from so many rows on it is the smaller."""
    plan = network_plan((channels,))
    (block,) = blocks_of(plan)
    return written(plan, rows)[block.file].size // channels


def written(plan: Plan, rows: int, store: MemoryStore | None = None, worker: int = 1) -> dict[str, FileRef]:
    """What the writer says of a worker's attempt of so many random rows."""
    random = torch.Generator().manual_seed(worker)
    layers = {}
    for layer in plan.layers:
        shape = (rows, layer.channels, plan.components)
        codes = torch.randint(0, top_code(plan.knots) + 1, shape, generator=random).to(torch.uint8)
        layers[layer.name] = LayerCodes(codes, torch.randint(-GRID, GRID, shape[:2], generator=random).to(torch.int16))
    folds = torch.arange(rows) % plan.folds
    target_codes, fixed = torch.zeros((rows, 1), dtype=torch.uint8), torch.zeros((rows, 1), dtype=torch.int16)
    sums = GroupAccumulator(plan).append(layers, target_codes, fixed, folds)
    examples = ExampleRows(plan)
    refs = [RowRef("part-00000.parquet", 0, row, str(row)) for row in range(rows)]
    examples.update(layers, RowCodes(folds.to(torch.uint8), target_codes, fixed), refs, [None] * rows, [0] * rows)
    attempt = f"e00001-a{worker:04d}-f00001"
    return write_attempt(store or MemoryStore(), attempt, plan, {None: sums}, (), {}, None, examples.files())
