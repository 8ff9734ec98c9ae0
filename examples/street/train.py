"""Trains the example's network on packed shards and writes weights.safetensors: about a minute on one core.

    python -m examples.street.train SHARDS [--test SHARDS] [--out weights.safetensors]

SHARDS: a folder of Parquet files from `pcace pack`, with columns image and --target (no2); rows without a value are
left out. The same data and seed give the same weights, bit for bit, on the same kind of machine with the same torch.
"""

from __future__ import annotations

import argparse
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

from examples.street.model import street_cnn

MEAN, STD = (0.45, 0.45, 0.45), (0.25, 0.25, 0.25)  # job.yaml says the same
BATCH = 64
PEAK_RATE = 1e-2


@dataclass(frozen=True, eq=False)
class Pictures:
    """images uint8 (n, 3, H, W); values float32 (n,)."""

    images: Tensor
    values: Tensor


def load(folder: Path, target: str) -> Pictures:
    """All rows of a folder of shards that have a value."""
    shards = sorted(folder.glob("*.parquet"))
    if not shards:
        raise SystemExit(f"{folder}: holds no Parquet files; `pcace pack` writes them")
    table = pa.concat_tables([pq.read_table(path, columns=["image", target]) for path in shards])
    table = table.filter(pc.is_finite(table[target].cast(pa.float64())))
    images = [np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("RGB")) for image in table["image"].to_pylist()]
    values = torch.from_numpy(table[target].cast(pa.float32()).to_numpy().copy())
    return Pictures(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), values)


def train(pictures: Pictures, *, epochs: int, seed: int) -> nn.Module:
    """AdamW with one rise and fall of the learning rate on standardised values; half of the pictures are mirrored."""
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    model = street_cnn()
    mean, deviation = pictures.values.mean(), pictures.values.std()
    wanted = (pictures.values - mean) / deviation
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    steps = epochs * (len(wanted) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=PEAK_RATE, total_steps=steps)
    for epoch in range(epochs):
        losses = []
        shuffled = torch.randperm(len(wanted), generator=order)
        for rows in torch.split(shuffled[: len(wanted) // BATCH * BATCH], BATCH):
            images = normalise(pictures.images[rows])
            images = images.flip(3) if torch.rand((), generator=order) < 0.5 else images
            loss = nn.functional.mse_loss(model(images)[:, 0], wanted[rows])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            losses.append(loss.detach())
        print(f"epoch {epoch + 1}/{epochs}: loss {torch.stack(losses).mean():.4f}", flush=True)
    return in_micrograms(model, float(mean), float(deviation))


def in_micrograms(model: nn.Module, mean: float, deviation: float) -> nn.Module:
    """The network with the standardisation taken into its last layer, so that it predicts NO2 itself."""
    last = model.get_submodule("predict")
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.mul_(deviation)
        last.bias.mul_(deviation).add_(mean)
    return model.eval()


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Predictions (n,) for uint8 images."""
    return torch.cat([model(normalise(part))[:, 0] for part in torch.split(images, 500)])


def explained(predicted: Tensor, values: Tensor) -> float:
    """1 - squared error over variance."""
    return float(1 - (predicted - values).square().mean() / values.var(unbiased=False))


def normalise(images: Tensor) -> Tensor:
    """What model.input of the job file does: scale to 0..1, less the mean, by the standard deviation."""
    mean, deviation = (torch.tensor(held).reshape(3, 1, 1) for held in (MEAN, STD))
    return (images.float() / 255 - mean) / deviation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--target", default="no2")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights.safetensors")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # products are too small to share, and the sums keep their order
    torch.use_deterministic_algorithms(True)
    model = train(load(args.train, args.target), epochs=args.epochs, seed=args.seed)
    for path in [args.test] if args.test else []:
        held = load(path, args.target)
        print(f"{path}: explains {explained(predict(model, held.images), held.values):.3f} of the variance")
    args.out.write_bytes(save(model.state_dict()))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
