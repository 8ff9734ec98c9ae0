"""The tables of docs/scale.md: what the arithmetic of `pcace estimate` gives for data and machines that are not here.

    python -m tests.benchmarks.predict                                  prints them
    python -m tests.benchmarks.predict --gpu-rate 3000 --cores 12       with your own figures
    python -m tests.benchmarks.predict --take FILE --write              takes new rates from a JSON file with the
                                                    question `rates`, and puts the tables into the page

Two kinds of figures go in. Measured: stated_rates.json beside this file, one core of one processor. Assumed: `Gpu`, for
no GPU could be had; `pcace estimate` and tests/benchmarks/device.py give those on your machine.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pcace_dist.commands.estimate import Machine, Prediction, Timings, Workload, predict
from pcace_dist.datasets.loader import PILOT_BYTES, PILOT_ROW_GROUPS
from pcace_dist.datasets.units import UNIT_BYTES, UNIT_ROWS
from pcace_dist.progress.display import duration
from pcace_dist.statistics.code_buffer import BLOCK_CHANNELS
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.pca import MIN_ITERATIONS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scale.md"
STATED = Path(__file__).parent / "stated_rates.json"
COMPONENTS, KNOTS, FOLDS, PILOT = 5, 9, 16, 2048
ROW_GROUP_BYTES = 16 << 20  # as `pcace pack` writes them
GIB = 2**30
COUNTS = (1, 8, 64)
BARE_RATES = (500, 1000, 2500, 5000, 10000)
RESNET50 = (64, *(c for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)) for c in
                  (*(width, width, 4 * width) * blocks, 4 * width)))  # fmt: skip


@dataclass(frozen=True)
class Gpu:
    """Assumptions, none of them measured: `rate` images a second of the bare forward pass of ResNet-50 in bfloat16,
    `one` and `all_` what tapping and statistics leave of it (the goals of the design), `cores` of the host for each
    GPU, `price` of a GPU with its share of the host for an hour, seconds until its node is up."""

    rate: float = 2500.0
    one: float = 0.95
    all_: float = 0.80
    cores: float = 16.0
    batch: int = 256
    price: float = 2.0
    node_start: float = 180.0
    memory: int = 16 * GIB

    @property
    def machine(self) -> Machine:
        return Machine(self.cores, max(1, int(self.cores)), node_start=self.node_start, price=self.price)


@dataclass(frozen=True)
class Data:
    """A data set: images, bytes of each, decoding of one against that of a 500 x 375 JPEG."""

    name: str
    images: int
    image_bytes: int
    decode: float = 1.0


@dataclass(frozen=True)
class Stated:
    """The measured rates: of one layer of 512 channels and of all of ResNet-50, on one core."""

    machine: str
    one: Timings
    all_: Timings
    batch: int
    street_decode: float

    @classmethod
    def read(cls, path: Path) -> Stated:
        held = json.loads(path.read_text())
        one, all_ = (Timings(**held[name]) for name in ("one", "all"))
        # the same work in both: on one core the reading thread waits for the model, more or less long
        read = min(one.read_row, all_.read_row)
        one, all_ = replace(one, read_row=read), replace(all_, read_row=read)
        return cls(held["machine"], one, all_, held["batch"], held["street_decode"])


def imagenet() -> Data:
    return Data("ImageNet", 1_281_167, 110_000)


def street(stated: Stated) -> Data:
    return Data("street photographs", 10_000_000, 90_000, stated.street_decode)


def workload(data: Data, channels: Sequence[int], *, batch: int, groups: int = 1, memory: int = 4 * GIB) -> Workload:
    """What there is to do, as a run would count it."""
    least, most = UNIT_ROWS
    unit = max(1, min(max(least, min(most, data.images // 64)), UNIT_BYTES // data.image_bytes))
    units = [unit] * (data.images // unit) + ([data.images % unit] if data.images % unit else [])
    row_groups = min(PILOT_ROW_GROUPS, max(32, PILOT_BYTES // ROW_GROUP_BYTES))
    full = [min(BLOCK_CHANNELS, count - at) for count in channels for at in range(0, count, BLOCK_CHANNELS)]
    return Workload(
        bytes=data.images * data.image_bytes,
        files=-(-data.images * data.image_bytes // (256 << 20)),
        units=tuple(units),
        groups=groups,
        targets=1,
        layers=len(channels),
        blocks=tuple(full),
        batch=batch,
        pilot_rows=PILOT,
        pilot_bytes=row_groups * ROW_GROUP_BYTES,
        row_bytes=sum(channels) * (COMPONENTS + 2) + 4,
        gram_bytes=sum(Gram.packed_bytes(count, COMPONENTS, 1, KNOTS, FOLDS) for count in channels),
        model_bytes=102_000_000,
        kept_bytes=0,
        most_held=memory,
        flush_seconds=600.0,
    )


def gpu_timings(took: Timings, share: float, gpu: Gpu, decode: float, *, passes: int = 1) -> Timings:
    """Measured timings with a GPU's forward pass: tap, statistics and sums within its share; decoding on the host.

    `passes` over the pilot, each a forward pass, where its maps are not kept.
    """
    row = 1 / gpu.rate
    decode_row = took.decode_row * decode
    return replace(
        took,
        forward=gpu.batch * row,
        pilot_batch=passes * gpu.batch * row / share,
        tap_row=row * (1 / share - 1),
        statistics_row=0.0,
        add_row=0.0,
        decode_row=decode_row,
        processor_row=decode_row + took.read_row,
    )


# -- the tables


def on_gpus(stated: Stated, gpu: Gpu) -> str:
    """Time, traffic and price on 1, 8 and 64 GPUs."""
    photos = street(stated)
    cases = [
        ("ImageNet, one layer", imagenet(), (512,), stated.one, gpu.one, 1),
        ("ImageNet, all 53 layers", imagenet(), RESNET50, stated.all_, gpu.all_, 1),
        ("ImageNet, one layer, 1,000 groups", imagenet(), (512,), stated.one, gpu.one, 1000),
        ("10 million street photographs, one layer, 33 groups", photos, (512,), stated.one, gpu.one, 33),
    ]
    rows = []
    for name, data, channels, took, share, groups in cases:
        load = workload(data, channels, batch=gpu.batch, groups=groups, memory=gpu.memory)
        passes = 1 if len(channels) == 1 else MIN_ITERATIONS + 2  # the maps of all layers are not kept
        timings = gpu_timings(took, share, gpu, data.decode, passes=passes)
        rows += [_row(name, predict(load, timings, count, gpu.machine), data) for count in COUNTS]
    return _table(HEAD_GPU, rows)


def on_cores(stated: Stated) -> str:
    """The same on processors: workers of one core each, every rate measured."""
    rows = []
    for name, channels, took in (
        ("ImageNet, one layer", (512,), stated.one),
        ("ImageNet, all 53 layers", RESNET50, stated.all_),
    ):
        load = workload(imagenet(), channels, batch=stated.batch)
        for count in (8, 64, 512):
            rows.append(_row(name, predict(load, took, count, Machine(1.0, 1)), imagenet())[:-1])
    return _table([name.replace("GPUs", "cores") for name in HEAD_GPU[:-1]], rows)


HEAD_GPU = [
    "job",
    "GPUs",
    "time",
    "start",
    "pilot",
    "main pass",
    "reduce",
    "publish",
    "read",
    "a second",
    "written",
    "price",
]


def _row(name: str, one: Prediction, data: Data) -> list[str]:
    stages = (one.seconds, one.start, one.pilot, one.main_pass, one.reduce, one.publish)
    rate = data.images * data.image_bytes / one.main_pass
    price = "" if one.price is None else f"{one.price:,.2f}"
    traffic = [_bytes(one.bytes_read), f"{_bytes(rate)}/s", _bytes(one.bytes_written), price]
    return [name, str(one.workers), *(duration(stage) for stage in stages), *traffic]


def bottleneck(stated: Stated, gpu: Gpu) -> str:
    """Cores of the host that keep a GPU busy: images a second of the model times processor seconds of an image."""
    rows = []
    for rate in BARE_RATES:
        fast = rate * gpu.one
        cells = [f"{rate:,}", f"{fast:,.0f}"]
        for data in (imagenet(), street(stated)):
            cells.append(f"{fast * (stated.one.decode_row * data.decode + stated.one.read_row):.1f}")
        rows.append([*cells, f"{fast * 110_000 / 1e6:,.0f} MB/s"])
    head = ["bare forward, images/s", "with tap and statistics", "cores, 500 x 375", "cores, 640 x 640", "JPEG bytes"]
    return _table(head, rows)


def rates(stated: Stated) -> str:
    """What was measured."""
    rows = []
    for name, pick in ROWS:
        one, all_ = pick(stated.one, stated.batch), pick(stated.all_, stated.batch)
        rows.append([name, _figure(one), _figure(all_)])
    return _table(["measured on one core", "one layer, 512 channels", "all 53 layers, 26,560 channels"], rows)


ROWS: tuple[tuple[str, Callable[[Timings, int], float]], ...] = (
    ("reading, ms an image", lambda took, _: 1e3 * took.read_row),
    ("decoding and resizing, ms an image", lambda took, _: 1e3 * took.decode_row),
    ("forward pass, ms an image", lambda took, batch: 1e3 * took.forward / batch),
    ("tap (projection), ms an image", lambda took, _: 1e3 * took.tap_row),
    ("codes, ms an image", lambda took, _: 1e3 * took.statistics_row),
    ("all processor time, ms an image", lambda took, _: 1e3 * took.processor_row),
    ("adding a row to a Gram, us a channel", lambda took, _: 1e6 * took.add_row),
    ("solving with 16 folds, us a channel", lambda took, _: 1e6 * took.solve),
    ("taking in a group of an attempt, ms", lambda took, _: 1e3 * took.part),
    ("ranking all channels, s", lambda took, _: took.ranking),
    ("a flush, s", lambda took, _: took.flush),
    ("start: driver's imports, Ray, a worker's imports, its model, s",
     lambda took, _: took.driver + took.ray + took.imports + took.load),
)  # fmt: skip


def arithmetic(stated: Stated, gpu: Gpu) -> str:
    """One row of the table by hand: ImageNet, one layer, 64 GPUs."""
    load = workload(imagenet(), (512,), batch=gpu.batch, memory=gpu.memory)
    took = gpu_timings(stated.one, gpu.one, gpu, 1.0)
    machine = gpu.machine
    one = predict(load, took, 64, machine)
    rows = load.units[0]
    batches = -(-rows // load.batch)
    model = batches * took.forward + rows * took.tap_row
    cores = rows * took.processor_row / machine.cores
    reading = rows * max(took.decode_row / machine.threads, took.read_row)
    turns, longest = -(-len(load.units) // 64), max(model, cores, reading)
    lines = (
        f"a unit     {rows:,} images = {batches} batches of {load.batch}, the last one padded",
        f"  model    {batches} x {load.batch} / {gpu.rate:,.0f} + {rows:,} x {1e3 * took.tap_row:.3f} ms"
        f" = {model:.3f} s",
        f"  cores    {rows:,} x {1e3 * took.processor_row:.2f} ms / {machine.cores:g} cores = {cores:.3f} s",
        f"  reading  {rows:,} x {1e3 * took.read_row:.3f} ms in one thread = {reading:.3f} s",
        f"units      {len(load.units):,} over 64 GPUs: {turns} turns x {longest:.3f} s = {turns * longest:.1f} s",
        f"main pass  + first use {took.begin:.1f} s + a flush {took.flush:.2f} s + calls 0.25 s"
        f" = {one.main_pass:.1f} s",
        f"reduce     {len(load.blocks)} blocks of 64 channels side by side, each: 64 x {1e3 * took.solve:.2f} ms"
        f" + 64 attempts x {1e3 * took.part:.1f} ms + calls = {one.reduce:.2f} s",
        f"written    64 attempts, each the smaller of its Gram ({_bytes(load.gram_bytes)}) and {load.row_bytes:,} bytes"
        f" an image: {_bytes(one.bytes_written)}",
    )
    return "\n".join(("```", *lines, "```"))


def blocks(stated: Stated, gpu: Gpu) -> dict[str, str]:
    """All parts of the page that are computed."""
    return {
        "rates": rates(stated),
        "gpus": on_gpus(stated, gpu),
        "arithmetic": arithmetic(stated, gpu),
        "bottleneck": bottleneck(stated, gpu),
        "cores": on_cores(stated),
    }


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] + ["---:"] * (len(head) - 1), *rows)]
    return "\n".join(lines)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _bytes(count: float) -> str:
    """Decimal units, as networks and clouds count."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


# -- the page


def in_page(text: str) -> dict[str, str]:
    """The computed parts that a page holds, by name."""
    found = re.findall(r"<!-- predict: (\w+) -->\n(.*?)<!-- end -->", text, re.S)
    return {name: part.rstrip("\n") for name, part in found}


def put_into(text: str, parts: Mapping[str, str]) -> str:
    """The page with new computed parts."""
    for name, part in parts.items():
        mark = rf"(<!-- predict: {name} -->\n).*?(<!-- end -->)"
        text = re.sub(mark, partial(_filled, part), text, flags=re.S)
    return text


def _filled(part: str, found: re.Match[str]) -> str:
    return f"{found[1]}{part}\n{found[2]}"


def take(found: Mapping[str, Any]) -> dict[str, Any]:
    """stated_rates.json from the JSON file of a run with the question `rates`."""
    answer = found["answers"]["rates"]["details"]
    one, all_ = answer["resnet50, 1 layer"], answer["resnet50, all"]
    return {
        "machine": answer["machine"],
        "batch": one["batch"],
        "street_decode": round(answer["street_decode"], 3),
        "one": {name: float(f"{value:.4g}") for name, value in one["timings"].items()},
        "all": {name: float(f"{value:.4g}") for name, value in all_["timings"].items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.predict", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    default = Gpu()
    parser.add_argument("--gpu-rate", type=float, default=default.rate, help="images a second of the bare pass")
    parser.add_argument("--cores", type=float, default=default.cores, help="of the host, for each GPU")
    parser.add_argument("--price", type=float, default=default.price, help="of a GPU with its host for an hour")
    parser.add_argument(
        "--take", type=Path, metavar="FILE", help="a JSON file of `python -m tests.benchmarks --only rates`"
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scale.md")
    given = parser.parse_args()
    if given.take is not None:
        STATED.write_text(json.dumps(take(json.loads(given.take.read_text())), indent=2) + "\n")
    stated = Stated.read(STATED)
    parts = blocks(stated, replace(default, rate=given.gpu_rate, cores=given.cores, price=given.price))
    if given.write:
        PAGE.write_text(put_into(PAGE.read_text(), parts))
    print(f"measured on: {stated.machine}\n")
    print("\n\n".join(parts.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
