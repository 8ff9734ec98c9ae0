"""Writes random weights of a torchvision network to a file, for use where no trained weights are available.

    python -m examples.imagenet.random_weights resnet18 runs/imagenet/resnet18.safetensors

The channels of such a network have no meaning; the example shows a job with weights given by path.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torchvision
from safetensors.torch import save_file


def write_weights(name: str, path: Path, seed: int = 0) -> None:
    """The state dict of torchvision's model `name`, initialised from `seed`."""
    torch.manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(torchvision.models.get_model(name, weights=None).state_dict(), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", help="a torchvision model, for example vgg16")
    parser.add_argument("path", type=Path, help="file to write, .safetensors")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_weights(arguments.name, arguments.path, arguments.seed)
    print(f"random weights of {arguments.name}: {arguments.path}")


if __name__ == "__main__":
    main()
