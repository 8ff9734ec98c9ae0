"""Photographs for the example: crops of the two photographs in scikit-learn, in one folder each.

    python -m examples.imagenet.photographs runs/imagenet/images --count 120

Both are from Flickr under CC BY 2.0, china.jpg by danielbuechele, flower.jpg by vultilion. The same seed gives the same
crops. Any other folder of images can be used too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

SMALLEST, LARGEST = 0.35, 0.95  # side of a crop, as a share of the photograph's


def write_crops(folder: Path, count: int, seed: int = 0) -> int:
    """`count` crops of each photograph, half of them mirrored, as JPEG; how many files."""
    rng = np.random.default_rng(seed)
    sample = load_sample_images()
    for name, pixels in zip(sample.filenames, sample.images, strict=True):
        photograph = Image.fromarray(pixels)
        place = folder / Path(name).stem
        place.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            crop = photograph.crop(_box(photograph.width, photograph.height, rng))
            if number % 2:
                crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            crop.save(place / f"{place.name}-{number:04d}.jpg", quality=90)
    return count * len(sample.images)


def _box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    share = rng.uniform(SMALLEST, LARGEST)
    wide, high = int(share * width), int(share * height)
    left, top = int(rng.integers(0, width - wide + 1)), int(rng.integers(0, height - high + 1))
    return left, top, left + wide, top + high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=120, help="crops of each photograph (default 120)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{write_crops(arguments.folder, arguments.count, arguments.seed)} images: {arguments.folder}")


if __name__ == "__main__":
    main()
