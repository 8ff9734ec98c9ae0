"""What bfloat16 does to a ranking: the same images ranked in float32 and in bfloat16.

    python -m tests.benchmarks.precision [--photos FOLDER] [--json precision.json]

Without --photos (Parquet shards of photographs) only the example's digits are ranked. No Ray. For each case: Spearman's
correlation of the scores over the channels, under the float32 plan and each with a plan of its own, and the share of
codes that differ under the float32 plan. docs/precision.md has the figures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr

from pcace_dist.config.sections import Compute, Model, Statistics
from pcace_dist.config.targets import TargetSpec
from pcace_dist.datasets.columns import DatasetSpec
from pcace_dist.datasets.listing import Listing, list_dataset
from pcace_dist.datasets.loader import Batch, LoaderOptions, pilot_rows
from pcace_dist.datasets.sections import Input, Limits
from pcace_dist.models.forward import Forward
from pcace_dist.models.precision import CHANNELS_LAST, Numerics
from pcace_dist.models.settings import set_deterministic
from pcace_dist.models.targets import target_values
from pcace_dist.statistics.folds import key_of_bytes
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.plan import LayerCodes, Plan
from pcace_dist.statistics.score import score_channels
from pcace_dist.storage.files import Storage
from pcace_dist.worker.pilot import make_plan
from pcace_dist.worker.spec import WorkSpec

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """One case. same_plan, own_plan: Spearman of bfloat16 with float32; differing: share of codes; top: of 20."""

    case: str
    images: int
    channels: int
    same_plan: float
    own_plan: float
    differing: float
    top: int


@dataclass(frozen=True, eq=False)
class _Codes:
    layers: dict[str, LayerCodes]
    targets: Floats
    folds: torch.Tensor

    def take(self, rows: npt.NDArray[np.int64]) -> _Codes:
        index = torch.from_numpy(rows)
        layers = {name: held.take(index) for name, held in self.layers.items()}
        return _Codes(layers, self.targets[rows], self.folds[index])


def digits() -> WorkSpec:
    return WorkSpec(
        dataset=DatasetSpec(path=[str(ROOT / "examples/mnist/data")], label="label"),
        model=Model(
            factory="examples.mnist.model:mnist_cnn",
            weights=str(ROOT / "examples/mnist/weights.safetensors"),
            input=Input("L", mean=[0.1307], std=[0.3081]),
        ),
        limits=Limits(),
        statistics=Statistics(pilot=100_000),
        compute=Compute(batch=16),
        storage=Storage(),
        layers=("conv1", "conv2", "conv3"),
        targets=(TargetSpec("logit", "label"),),
        output="unused",
    )


def photos(folder: str, factory: str, weights: str, layers: tuple[str, ...]) -> WorkSpec:
    return replace(
        digits(),
        dataset=DatasetSpec(path=[folder]),
        model=Model(factory=factory, weights=weights, input=Input(resize=256, crop=224, mean=MEAN, std=STD)),
        layers=layers,
        targets=(TargetSpec("logit", "predicted"),),
    )


def read(spec: WorkSpec, listing: Listing, batch: int) -> list[Batch]:
    options = LoaderOptions(
        spec.dataset,
        spec.images,
        spec.storage,
        batch_size=batch,
        fold_bytes=lambda data: key_of_bytes(data) % spec.statistics.folds,
        fold_value=lambda _: 0,
    )
    return list(pilot_rows(listing, spec.statistics.pilot, options))


def encode(forward: Forward, plan: Plan, batches: Sequence[Batch], spec: WorkSpec) -> _Codes:
    parts: dict[str, list[LayerCodes]] = {layer.name: [] for layer in plan.layers}
    targets: list[Floats] = []
    for batch in batches:

        def receive(name: str, maps: torch.Tensor, _: tuple[int, ...], rows: int = len(batch)) -> None:
            layer = plan.layer(name)
            parts[name].append(layer.encode(*layer.project(maps)).take(slice(0, rows)))

        outputs = forward(batch.images, receive)
        targets.append(target_values(spec.targets, outputs, batch.labels, batch.columns)[0])
    folds = torch.from_numpy(np.concatenate([batch.fold_keys for batch in batches]).astype(np.uint8))
    return _Codes({name: LayerCodes.cat(held) for name, held in parts.items()}, np.concatenate(targets), folds)


def scores(plan: Plan, codes: _Codes) -> Floats:
    """score_squared of all channels, NaN where a channel has no score."""
    target_codes, fixed = plan.encode_targets(codes.targets)
    found = []
    for layer in plan.layers:
        held = codes.layers[layer.name]
        gram = Gram(layer.channels, plan.components, 1, plan.knots, plan.folds)
        gram.update(held.codes, held.means, target_codes, fixed, codes.folds)
        found.append(np.asarray(score_channels(gram, layer, plan.targets, penalty=0.3)[0].score_squared))
    return np.concatenate(found)


def compare(case: str, wide: Floats, same: Floats, own: Floats, images: int, differing: float) -> Effect:
    known = np.isfinite(wide) & np.isfinite(same) & np.isfinite(own)
    count = min(20, int(known.sum()))
    best = [set(np.argsort(-np.where(known, values, -np.inf))[:count].tolist()) for values in (wide, own)]
    rank = [float(spearmanr(wide[known], values[known])[0]) for values in (same, own)]
    return Effect(
        case, images, len(wide), round(rank[0], 4), round(rank[1], 4), round(differing, 4), len(best[0] & best[1])
    )


def measure(name: str, spec: WorkSpec, by_label: bool = False) -> Iterator[Effect]:
    """The case over all images and, where asked for, over those of each label."""
    model = spec.load_model()
    listing = list_dataset(spec.dataset, spec.storage)
    plans, forwards = [], []
    for precision in ("float32", "bfloat16"):
        compute = spec.compute.model_copy(update={"precision": precision})
        plans.append(make_plan([model], replace(spec, compute=compute), listing, device=CPU, weights="").plan)
        numerics = Numerics(precision, CHANNELS_LAST)
        forwards.append(Forward(model, CPU, 16, spec.model.input.mean, spec.model.input.std, spec.layers, numerics))
    batches = read(spec, listing, 16)
    wide = encode(forwards[0], plans[0], batches, spec)
    same, own = (encode(forwards[1], plan, batches, spec) for plan in plans)
    labels = np.concatenate([b.labels for b in batches if b.labels is not None]) if by_label else np.empty(0)
    chosen = {name: np.arange(len(wide.folds))}
    chosen |= {f"{name}, label {label}": np.flatnonzero(labels == label) for label in sorted(set(labels.tolist()))}
    for case, rows in chosen.items():
        a, b, c = wide.take(rows), same.take(rows), own.take(rows)
        total = sum(held.codes.numel() for held in a.layers.values())
        other = sum(int((b.layers[n].codes != held.codes).sum()) for n, held in a.layers.items())
        ranked = scores(plans[0], a), scores(plans[0], b), scores(plans[1], c)
        yield compare(case, *ranked, len(rows), other / total)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.precision", description=__doc__)
    parser.add_argument("--photos")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    set_deterministic(1)
    cases = [("MNIST CNN", digits(), True)]
    if arguments.photos:
        residual = tuple(f"layer{i}.1.conv2" for i in (1, 2, 3, 4))
        cases.append(
            ("ResNet-18, random weights", photos(arguments.photos, "torchvision:resnet18", "random", residual), False)
        )
        lite = ("_blocks.5._depthwise_conv", "_blocks.10._depthwise_conv", "_conv_head")
        factory = "examples.imagenet.efficientnet:efficientnet_lite0"
        cases.append(("EfficientNet-Lite0", photos(arguments.photos, factory, "factory", lite), False))
    found = []
    for name, spec, by_label in cases:
        for effect in measure(name, spec, by_label):
            found.append(effect)
            print(effect, flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(effect) for effect in found], indent=2) + "\n")


if __name__ == "__main__":
    main()
