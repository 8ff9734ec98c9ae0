"""The folder that docs/mistakes.md is about: digits in several forms, modules with factories, weights, one run."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.digits import MNIST, digits_table

ROWS = 400
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NETS = '''
import torch
from torch import nn

from examples.mnist.model import mnist_cnn as build


def weights():
    return build().state_dict()


class Parts(nn.Module):
    """Returns two tensors."""

    def __init__(self):
        super().__init__()
        self.digits = build()

    def forward(self, images):
        outputs = self.digits(images)
        return {"scores": outputs, "features": outputs * 2}


class Masks(nn.Module):
    """A segmentation."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 3)

    def forward(self, images):
        return self.last(self.first(images).relu())


class Training(nn.Module):
    """Its batch norm never leaves training mode."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 10)

    def forward(self, images):
        self.train()
        return self.last(self.norm(self.first(images)).mean((2, 3)))


class Dropout(nn.Module):
    """Its dropout is always on."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3), nn.Linear(4, 10)

    def forward(self, images):
        return self.last(nn.functional.dropout(self.first(images).mean((2, 3))))


class Detached(nn.Module):
    """Has no gradient."""

    def __init__(self):
        super().__init__()
        self.digits = build()

    @torch.no_grad()
    def forward(self, images):
        return self.digits(images)
'''


def write_folder(folder: Path, job: str) -> None:
    """job: the text of job.yaml."""
    (folder / "job.yaml").write_text(job)
    (folder / "nets.py").write_text(NETS)
    (folder / "trained.py").write_text("import a_package_that_is_not_installed\n")
    _write_weights(folder)
    (folder / "shards").mkdir()
    pq.write_table(_table(), folder / "shards" / "digits.parquet", row_group_size=100)
    (folder / "damaged").mkdir()
    pq.write_table(_with_damaged(_table()), folder / "damaged" / "digits.parquet")
    (folder / "videos").mkdir()
    pq.write_table(_frames(60), folder / "videos" / "frames.parquet")
    _write_images(folder)
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "places.py").write_text(NETS)
    (folder / "elsewhere" / "job.yaml").write_text(job.replace("nets:build", "places:build"))
    (folder / "empty").mkdir()


def _write_weights(folder: Path) -> None:
    shutil.copy(MNIST / "weights.safetensors", folder / "digits.safetensors")
    save_file({"features.0.weight": torch.zeros(3), "head.weight": torch.zeros(3)}, folder / "another.safetensors")


def _table() -> pa.Table:
    table = digits_table(0, ROWS)
    labels = table["label"].to_pylist()
    more = {
        "from_1": pa.array([label + 1 for label in labels]),
        "grade": pa.array([label + 0.5 for label in labels]),
        "unknown": pa.array([float("nan")] * ROWS),
        "class": pa.array([NAMES[label] for label in labels]),
        "same": pa.array([1.0] * ROWS),
    }
    for name, column in more.items():
        table = table.append_column(name, column)
    return table


def _with_damaged(table: pa.Table) -> pa.Table:
    """Each twentieth image is cut short."""
    images = table["image"].to_pylist()
    cut = [image if row % 20 else image | {"bytes": image["bytes"][:40]} for row, image in enumerate(images)]
    return table.set_column(0, "image", pa.array(cut, table["image"].type))


def _frames(clips: int) -> pa.Table:
    """Four frames of each digit, a little darker each time."""
    table = digits_table(0, clips)
    digits = [np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in table["image"].to_pylist()]
    frames = [_png((digit * (1 - step / 20)).astype(np.uint8)) for digit in digits for step in range(4)]
    labels, clip = (np.repeat(values, 4) for values in (table["label"].to_numpy(), np.arange(clips)))
    return pa.table({"image": frames, "label": labels, "clip": clip})


def _png(pixels: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def _write_images(folder: Path) -> None:
    """Photographs of two sizes in class folders, a CSV that names them, and the same in an archive."""
    random = np.random.default_rng(0)
    for number in range(60):
        place = folder / "photos" / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        size = (28, 28) if number % 3 else (30, 40)
        (place / f"{number:02}.png").write_bytes(_png(random.integers(0, 255, size, dtype=np.uint8)))
    files = sorted((folder / "photos").rglob("*.png"))
    names = [file.relative_to(folder).as_posix() for file in files]
    (folder / "photos.csv").write_text("\n".join(["file,label", *(f"{name},{'dog' in name:d}" for name in names)]))
    (folder / "tars").mkdir()
    with tarfile.open(folder / "tars" / "photos.tar", "w") as tar:
        tar.add(files[0], names[0])
    (folder / "archive").mkdir()
    with zipfile.ZipFile(folder / "archive" / "photos.zip", "w") as archive:
        archive.write(files[0], names[0])
