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
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from pcace_dist.commands.estimate import STAGES, Cost, Timings, Workload, predict
from pcace_dist.datasets.units import UNIT_BYTES, UNIT_ROWS
from pcace_dist.progress.display import duration
from pcace_dist.statistics.code_buffer import BLOCK_CHANNELS
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.pca import MIN_ITERATIONS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scale.md"
STATED = Path(__file__).parent / "stated_rates.json"
COMPONENTS, KNOTS, FOLDS, PILOT = 5, 9, 16, 2048
PASSES = MIN_ITERATIONS + 2  # of a pilot with all layers: the maps of 2,048 images are not kept, those of a few are
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


@dataclass(frozen=True)
class Data:
    """A data set: images, bytes of each, decoding of one against that of a 500 x 375 JPEG."""

    name: str
    images: int
    image_bytes: int
    decode: float = 1.0


@dataclass(frozen=True)
class Rates:
    """Measured seconds on one core: of an image by stage and in all processor time, of the pilot besides its images
    (`pilot_fixed`) and of one of these (`pilot_row`); the rest as in `Timings`."""

    driver: float
    worker: float
    pilot_fixed: float
    pilot_row: float
    begin: float
    read: float
    decode: float
    forward: float
    tap: float
    statistics: float
    processor: float
    flush: float
    add_row: float
    part: float
    solve: float
    ranking: float

    def model(self, rows: float, batch: int) -> float:
        """Seconds of the model for a unit of so many rows, whose last batch is padded."""
        return math.ceil(rows / batch) * batch * self.forward + rows * (self.tap + self.statistics)

    def timings(self, rows: float, batch: int) -> Timings:
        """As `pcace estimate` would measure them in units of so many rows."""
        row = Cost(max(self.model(rows, batch) / rows, self.read), self.processor)
        same = ("driver", "worker", "begin", "flush", "add_row", "part", "solve", "ranking")
        pilot = Cost(self.pilot_fixed + PILOT * self.pilot_row)
        return Timings(pilot=pilot, row=row, stages={}, **{name: getattr(self, name) for name in same})

    @classmethod
    def of(cls, estimated: Mapping[str, Any], larger_pilot: float, images: int) -> Rates:
        """From an estimate, and the processor seconds of a pilot with so many images more."""
        took, pilot = estimated["timings"], estimated["timings"]["pilot"]["processor"]
        row = max(0.0, larger_pilot - pilot) / images
        fixed = max(0.0, pilot - row * estimated["pilot"])
        found = took | took["stages"] | {"processor": took["row"]["processor"], "pilot_row": row, "pilot_fixed": fixed}
        return cls(**{field.name: float(f"{found[field.name]:.4g}") for field in fields(cls)})


@dataclass(frozen=True)
class Stated:
    """The measured rates: of one layer of 512 channels and of all of ResNet-50, on one core."""

    machine: str
    date: str
    one: Rates
    all_: Rates
    batch: int
    street_decode: float

    @classmethod
    def read(cls, path: Path) -> Stated:
        held = json.loads(path.read_text())
        one, all_ = (Rates(**held[name]) for name in ("one", "all"))
        # the same work in both: on one core the reading thread waits for the model, more or less long
        read = min(one.read, all_.read)
        one, all_ = replace(one, read=read), replace(all_, read=read)
        return cls(held["machine"], held["date"], one, all_, held["batch"], held["street_decode"])


def imagenet() -> Data:
    return Data("ImageNet", 1_281_167, 110_000)


def street(stated: Stated) -> Data:
    return Data("street photographs", 10_000_000, 90_000, stated.street_decode)


def workload(data: Data, channels: Sequence[int], *, groups: int = 1, memory: int = 4 * GIB) -> Workload:
    """What there is to do, as a run would count it."""
    least, most = UNIT_ROWS
    unit = max(1, min(max(least, min(most, data.images // 64)), UNIT_BYTES // data.image_bytes))
    units = [unit] * (data.images // unit) + ([data.images % unit] if data.images % unit else [])
    full = [min(BLOCK_CHANNELS, count - at) for count in channels for at in range(0, count, BLOCK_CHANNELS)]
    return Workload(
        bytes=data.images * data.image_bytes,
        units=tuple(units),
        groups=groups,
        targets=1,
        blocks=tuple(full),
        row_bytes=sum(channels) * (COMPONENTS + 2) + 4,
        gram_bytes=sum(Gram.packed_bytes(count, COMPONENTS, 1, KNOTS, FOLDS) for count in channels),
        model_bytes=102_000_000,
        kept_bytes=0,
        most_held=memory,
        flush_seconds=600.0,
    )


def on_a_gpu(rates: Rates, share: float, gpu: Gpu, decode: float, *, passes: int = 1) -> Rates:
    """Measured rates with a GPU's forward pass: tap, statistics and sums within its share; decoding on the host.

    `passes` over the pilot, each a forward pass, where its maps are not kept.
    """
    row = 1 / gpu.rate
    return replace(
        rates,
        pilot_row=passes * row / share,
        forward=row,
        tap=row * (1 / share - 1),
        statistics=0.0,
        add_row=0.0,
        decode=rates.decode * decode,
        processor=rates.decode * decode + rates.read,
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
    for name, data, channels, rates, share, groups in cases:
        load = workload(data, channels, groups=groups, memory=gpu.memory)
        passes = 1 if len(channels) == 1 else PASSES
        took = on_a_gpu(rates, share, gpu, data.decode, passes=passes).timings(load.units[0], gpu.batch)
        took = replace(took, worker=took.worker + gpu.node_start)
        rows += [_row(name, predict(load, took, count, gpu.cores), data, gpu.price) for count in COUNTS]
    return _table(HEAD_GPU, rows)


def on_cores(stated: Stated) -> str:
    """The same on processors: workers of one core each, every rate measured."""
    rows = []
    for name, channels, rates in (
        ("ImageNet, one layer", (512,), stated.one),
        ("ImageNet, all 53 layers", RESNET50, stated.all_),
    ):
        load = workload(imagenet(), channels)
        took = rates.timings(load.units[0], stated.batch)
        for count in (8, 64, 512):
            rows.append(_row(name, predict(load, took, count, 1.0), imagenet(), 0.0)[:-1])
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


def _row(name: str, one: Mapping[str, Any], data: Data, price: float) -> list[str]:
    rate = data.images * data.image_bytes / one["main_pass"]
    traffic = [_bytes(one["bytes_read"]), f"{_bytes(rate)}/s", _bytes(one["bytes_written"])]
    paid = f"{price * one['workers'] * one['seconds'] / 3600:,.2f}"
    return [name, str(one["workers"]), *(duration(one[stage]) for stage in ("seconds", *STAGES)), *traffic, paid]


def bottleneck(stated: Stated, gpu: Gpu) -> str:
    """Cores of the host that keep a GPU busy: images a second of the model times processor seconds of an image."""
    rows = []
    for rate in BARE_RATES:
        fast = rate * gpu.one
        cells = [f"{rate:,}", f"{fast:,.0f}"]
        for data in (imagenet(), street(stated)):
            cells.append(f"{fast * (stated.one.decode * data.decode + stated.one.read):.1f}")
        rows.append([*cells, f"{fast * 110_000 / 1e6:,.0f} MB/s"])
    head = ["bare forward, images/s", "with tap and statistics", "cores, 500 x 375", "cores, 640 x 640", "JPEG bytes"]
    return _table(head, rows)


def rates(stated: Stated) -> str:
    """What was measured."""
    rows = []
    for name, pick in ROWS:
        one, all_ = pick(stated.one), pick(stated.all_)
        rows.append([name, _figure(one), _figure(all_)])
    table = _table(["measured on one core", "one layer, 512 channels", "all 53 layers, 26,560 channels"], rows)
    return f"One core of: {stated.machine} ({stated.date}).\n\n{table}"


ROWS: tuple[tuple[str, Callable[[Rates], float]], ...] = (
    ("reading, ms an image", lambda rates: 1e3 * rates.read),
    ("decoding and resizing, ms an image", lambda rates: 1e3 * rates.decode),
    ("forward pass, ms an image", lambda rates: 1e3 * rates.forward),
    ("tap (projection), ms an image", lambda rates: 1e3 * rates.tap),
    ("codes, ms an image", lambda rates: 1e3 * rates.statistics),
    ("all processor time, ms an image", lambda rates: 1e3 * rates.processor),
    ("adding a row to a Gram, us a channel", lambda rates: 1e6 * rates.add_row),
    ("solving with 16 folds, us a channel", lambda rates: 1e6 * rates.solve),
    ("taking in a group of an attempt, ms", lambda rates: 1e3 * rates.part),
    ("ranking all channels, s", lambda rates: rates.ranking),
    ("a flush, s", lambda rates: rates.flush),
    ("start: driver's imports, Ray, a worker's imports, its model, s", lambda rates: rates.driver + rates.worker),
)


def arithmetic(stated: Stated, gpu: Gpu) -> str:
    """One row of the table by hand: ImageNet, one layer, 64 GPUs."""
    load = workload(imagenet(), (512,), memory=gpu.memory)
    rates, rows = on_a_gpu(stated.one, gpu.one, gpu, 1.0), load.units[0]
    one = predict(load, rates.timings(rows, gpu.batch), 64, gpu.cores)
    batches, model = math.ceil(rows / gpu.batch), rates.model(rows, gpu.batch)
    cores, reading = rows * rates.processor / gpu.cores, rows * rates.read
    turns, longest = -(-len(load.units) // 64), max(model, cores, reading)
    lines = (
        f"a unit     {rows:,} images = {batches} batches of {gpu.batch}, the last one padded",
        f"  model    {batches} x {gpu.batch} / {gpu.rate:,.0f} + {rows:,} x {1e3 * rates.tap:.3f} ms = {model:.3f} s",
        f"  cores    {rows:,} x {1e3 * rates.processor:.2f} ms / {gpu.cores:g} cores = {cores:.3f} s",
        f"  reading  {rows:,} x {1e3 * rates.read:.3f} ms in one thread = {reading:.3f} s",
        f"units      {len(load.units):,} over 64 GPUs: {turns} turns x {longest:.3f} s = {turns * longest:.1f} s",
        f"main pass  + first use {rates.begin:.1f} s + a flush {rates.flush:.2f} s + calls 0.25 s"
        f" = {one['main_pass']:.1f} s",
        f"reduce     {len(load.blocks)} blocks of 64 channels side by side, each: 64 x {1e3 * rates.solve:.2f} ms"
        f" + 64 attempts x {1e3 * rates.part:.1f} ms + calls = {one['reduce']:.2f} s",
        f"written    64 attempts, each the smaller of its Gram ({_bytes(load.gram_bytes)}) and {load.row_bytes:,} bytes"
        f" an image: {_bytes(one['bytes_written'])}",
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


def take(found: Mapping[str, Any], day: str) -> dict[str, Any]:
    """stated_rates.json from the JSON file of a run with the question `rates` on some day."""
    answer = found["answers"]["rates"]["details"]
    estimated, pilots, more = answer["found"], answer["larger_pilot"], answer["more_images"]
    one, all_ = (Rates.of(estimated[case], pilots[case], more) for case in ("1 layer", "all"))
    all_ = replace(all_, pilot_row=float(f"{all_.pilot_row + PASSES * all_.forward:.4g}"))
    return {
        "machine": answer["machine"],
        "date": day,
        "batch": estimated["1 layer"]["batch"],
        "street_decode": round(answer["street_decode"], 3),
        "one": asdict(one),
        "all": asdict(all_),
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
        day = date.fromtimestamp(given.take.stat().st_mtime).isoformat()
        STATED.write_text(json.dumps(take(json.loads(given.take.read_text()), day), indent=2) + "\n")
    stated = Stated.read(STATED)
    parts = blocks(stated, replace(default, rate=given.gpu_rate, cores=given.cores, price=given.price))
    if given.write:
        PAGE.write_text(put_into(PAGE.read_text(), parts))
    print(f"measured on: {stated.machine}\n")
    print("\n\n".join(parts.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
