"""A city of any size: millions of rows of metadata, written piece by piece, that re-use the pictures of some scenes.

    python -m examples.street.scale DEST [--rows 1000000] [--scenes 1000] [--seed 21]

writes DEST/stations.csv and DEST/images/*.jpg, as examples/street/city.py does for a small city. A *scene* is a
panorama that is drawn: its traffic, trees and sky, and a picture for each view. Every row's panorama has its own place,
borough and NO2, by the same formula, and looks like one of the scenes. So everything that is known about the small city
is known about this one. Panoramas that look alike are not independent observations: use `fold_by: scene`.

Only one piece is in memory, for any number of rows; a city with fewer rows is the beginning of one with more.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from examples.street.city import HEADINGS, City, expected_no2, make_city, write_pictures

ROWS, SCENES, SIZE = 1_000_000, 1_000, 32  # SIZE: pixels a side; what weights-32.safetensors was trained on
PIECE = 10_000  # panoramas made at a time


def like_scenes(places: City, scenes: City, scene_of: np.ndarray[tuple[int], np.dtype[np.int64]]) -> City:
    """The panoramas of `places` with the content of their scenes (`scene_of`); their NO2 follows from the content."""
    rows = (HEADINGS * scene_of[:, None] + np.arange(HEADINGS)).ravel()
    traffic, greenery = scenes.traffic[rows], scenes.greenery[rows]
    rest = places.no2 - expected_no2(places.latitude, places.longitude, places.traffic, places.greenery)
    return replace(
        places,
        no2=expected_no2(places.latitude, places.longitude, traffic, greenery) + rest,  # noise, or NaN
        traffic=traffic,
        greenery=greenery,
        **{name: getattr(scenes, name)[rows] for name in ("vehicles", "sky", "building_height", "hour")},
    )


def pieces(rows: int, scenes: City, *, seed: int) -> Iterator[pa.Table]:
    """stations.csv in tables of at most PIECE panoramas; the column `path` names the scene's picture."""
    for first in range(0, -(-rows // HEADINGS), PIECE):
        places = make_city(PIECE, seed=seed, first=first)  # the last piece too is made whole: fewer rows begin alike
        scene_of = np.random.default_rng([seed, first, 1]).integers(len(scenes) // HEADINGS, size=PIECE)
        city = like_scenes(places, scenes, scene_of)
        table = city.table().append_column("scene", pa.array(np.repeat(scene_of, HEADINGS)))
        paths = [f"images/{picture_name(scene, view)}" for scene in scene_of.tolist() for view in range(HEADINGS)]
        yield table.add_column(0, "path", pa.array(paths)).slice(0, rows - HEADINGS * first)


def picture_name(scene: int, view: int) -> str:
    return f"{scene:05d}_{view * (360 // HEADINGS)}.jpg"


def write_scale(dest: Path, *, rows: int = ROWS, scenes: int = SCENES, seed: int = 21, size: int = SIZE) -> Path:
    """Pictures of the scenes and stations.csv below `dest`; the CSV's path."""
    drawn = make_city(scenes, seed=seed + 1)
    names = [picture_name(scene, view) for scene in range(scenes) for view in range(HEADINGS)]
    write_pictures(drawn, names, dest / "images", size=size)
    path = dest / "stations.csv"
    writer: pacsv.CSVWriter | None = None
    for table in pieces(rows, drawn, seed=seed):
        writer = writer or pacsv.CSVWriter(path, table.schema)
        writer.write(table)
    assert writer is not None, "rows is at least 1"
    writer.close()
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dest", type=Path)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--scenes", type=int, default=SCENES, help="panoramas that are drawn, four pictures each")
    parser.add_argument("--seed", type=int, default=21)
    args = parser.parse_args()
    if min(args.rows, args.scenes) < 1:
        parser.error("--rows and --scenes must be at least 1")
    path = write_scale(args.dest, rows=args.rows, scenes=args.scenes, seed=args.seed)
    print(f"wrote {path}: {args.rows:,} rows, {HEADINGS * args.scenes:,} pictures")


if __name__ == "__main__":
    main()
