"""Trains the example's network and writes weights.safetensors: a minute on one core.

The same data and seed give the same weights, bit for bit, on the same kind of machine with the same torch.

    python -m examples.mnist.train TRAIN TEST [--out examples/mnist/weights.safetensors]

TRAIN and TEST: folders with MNIST as Parquet shards (columns image struct<bytes, path> and label), or with the idx
files as published (train-images-idx3-ubyte and so on, also with .gz).
"""

from __future__ import annotations

import argparse
import gzip
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

from examples.mnist.model import mnist_cnn

MEAN, STD = 0.1307, 0.3081  # of the training images' pixels, scaled to 0..1; job.yaml says the same
BATCH = 128
PEAK_RATE = 4e-3


def load(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images uint8 (n, 1, 28, 28) and labels int64 (n,). `part` (train or t10k) names the idx files of a folder."""
    shards = sorted(folder.glob("*.parquet"))
    if shards:
        pairs = [_shard(path) for path in shards]
        return torch.cat([images for images, _ in pairs]), torch.cat([labels for _, labels in pairs])
    images, labels = _idx(folder, f"{part}-images-idx3-ubyte", 16), _idx(folder, f"{part}-labels-idx1-ubyte", 8)
    return images.reshape(-1, 1, 28, 28), labels.long()


def train(
    images: Tensor, labels: Tensor, *, epochs: int, seed: int, make: Callable[[], nn.Module] = mnist_cnn
) -> nn.Module:
    """Adam with one rise and fall of the learning rate; batches in a seeded order. make: gives the network."""
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    model = make()
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=PEAK_RATE, total_steps=steps)
    for epoch in range(epochs):
        losses = []
        for rows in _batches(len(images), order):
            loss = nn.functional.cross_entropy(model(normalise(images[rows])), labels[rows])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            losses.append(loss.detach())
        print(f"epoch {epoch + 1}/{epochs}: loss {torch.stack(losses).mean():.4f}", flush=True)
    return model.eval()


@torch.inference_mode()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the images whose largest logit is their label's."""
    correct = [
        (model(normalise(part)).argmax(1) == expected).sum()
        for part, expected in zip(torch.split(images, 1000), torch.split(labels, 1000), strict=True)
    ]
    return float(torch.stack(correct).sum() / len(labels))


def normalise(images: Tensor) -> Tensor:
    """What model.input of the job file does: scale to 0..1, less the mean, by the standard deviation."""
    return (images.float() / 255 - MEAN) / STD


def _batches(rows: int, order: torch.Generator) -> Iterator[Tensor]:
    shuffled = torch.randperm(rows, generator=order)
    for start in range(0, rows - BATCH + 1, BATCH):
        yield shuffled[start : start + BATCH]


def _shard(path: Path) -> tuple[Tensor, Tensor]:
    table = pq.read_table(path, columns=["image", "label"])
    images = [np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("L")) for image in table["image"].to_pylist()]
    return torch.from_numpy(np.stack(images)).unsqueeze(1), torch.tensor(table["label"].to_pylist())


def _idx(folder: Path, name: str, header: int) -> Tensor:
    """The bytes of an idx file behind its header."""
    plain, packed = folder / name, folder / f"{name}.gz"
    if not plain.exists() and not packed.exists():
        raise SystemExit(f"{folder}: holds neither Parquet files nor {name}")
    data = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
    return torch.frombuffer(bytearray(data[header:]), dtype=torch.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights.safetensors")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # products are too small to share, and the sums keep their order
    torch.use_deterministic_algorithms(True)
    model = train(*load(args.train, "train"), epochs=args.epochs, seed=args.seed)
    print(f"test accuracy {accuracy(model, *load(args.test, 't10k')):.4f}")
    args.out.write_bytes(save(model.state_dict()))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
