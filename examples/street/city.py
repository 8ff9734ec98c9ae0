"""A made-up city whose air is known: street panoramas with their places, their content, and NO2 with its causes.

    python -m examples.street.city DEST [--panoramas 1500] [--views 4] [--seed 1] [--size 64]

writes DEST/stations.csv and DEST/images/*.jpg: a row for each picture with the columns of real photographs of a city,
and also columns that only a made-up city can have (traffic ... hour). Several views belong to one panorama and share
its NO2; therefore the jobs say `fold_by: panorama`. A few panoramas have no NO2, as in real tables.

    NO2 = field(place) + D(borough) * 30 * s(traffic) - 8 * greenery^2 + noise      s(t) = (1 - e^-2.5t) / (1 - e^-2.5)

The field differs by borough and varies within it. D says how much traffic counts in a borough: fully in Northgate and
Old Town, half in Riverside and not at all in Harbour, where the NO2 comes from ships. The colour of the sky varies more
visibly than anything else, and does not affect the NO2. No torch, no Ray.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pacsv

from examples.street.scene import SIZE, Factors, draw, jpeg

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

SOUTH, WEST, WIDTH = 52.30, 6.10, 0.08  # degrees: the city is a square, a borough a quarter of it
BOROUGHS = ("Northgate", "Old Town", "Riverside", "Harbour")
TRAFFIC_COUNTS = (1.0, 1.0, 0.5, 0.0)  # D: how much of the traffic's NO2 there is in each borough
BASE = (16.0, 22.0, 18.0, 30.0)  # micrograms per cubic metre without traffic and trees
FROM_TRAFFIC, STEEPNESS, FROM_GREENERY = 30.0, 2.5, -8.0
NOISE = 2.0
UNKNOWN = 0.01  # share of the panoramas without NO2
PLACES_FOR_VEHICLES = 16
HEADINGS = 4
FACTORS = ("vehicles", "greenery", "sky", "building_height", "hour")


@dataclass(frozen=True, eq=False)
class City:
    """Pictures (n,), with the views of a panorama one after another. no2: NaN where unknown; vehicles: in the view,
    about 16 times the panorama's traffic."""

    seed: int
    panorama: Ints
    view: Ints
    latitude: Floats
    longitude: Floats
    borough: Ints
    no2: Floats
    traffic: Floats
    vehicles: Ints
    greenery: Floats
    sky: Floats
    building_height: Floats
    hour: Floats

    def __len__(self) -> int:
        return len(self.panorama)

    def factors(self, row: int) -> Factors:
        """The factors from which a row's picture is drawn."""
        return Factors(
            int(self.vehicles[row]),
            float(self.greenery[row]),
            float(self.sky[row]),
            float(self.building_height[row]),
            float(self.hour[row]),
        )

    def key(self, row: int) -> tuple[int, int, int]:
        """The key of a row's scene."""
        return self.seed, int(self.panorama[row]), int(self.view[row])

    def table(self) -> pa.Table:
        """All columns of stations.csv except the picture's path."""
        return pa.table(
            {
                "panorama": [f"s{self.seed}-{number:07d}" for number in self.panorama.tolist()],
                "heading": self.view * (360 // HEADINGS),
                "latitude": self.latitude.round(6),
                "longitude": self.longitude.round(6),
                "borough": [BOROUGHS[index] for index in self.borough.tolist()],
                "no2": pa.array(self.no2.round(3), from_pandas=True),
                "traffic": self.traffic.round(4),
                "vehicles": self.vehicles,
                "greenery": self.greenery.round(4),
                "sky": self.sky.round(4),
                "building_height": self.building_height.round(2),
                "hour": self.hour.round(2),
            }
        )


def make_city(panoramas: int, *, views: int = HEADINGS, seed: int = 0, first: int = 0) -> City:
    """Panoramas `first` to `first + panoramas` of the city with this seed. Factors are independent of one another."""
    random = np.random.default_rng([seed, first])
    latitude = SOUTH + WIDTH * random.random(panoramas)
    longitude = WEST + WIDTH * random.random(panoramas)
    traffic, greenery = random.random(panoramas), random.random(panoramas)
    borough = borough_of(latitude, longitude)
    no2 = expected_no2(latitude, longitude, traffic, greenery) + NOISE * random.standard_normal(panoramas)
    no2[random.random(panoramas) < UNKNOWN] = np.nan
    panorama_of_row = np.repeat(np.arange(panoramas), views)
    rows = len(panorama_of_row)
    return City(
        seed=seed,
        panorama=first + panorama_of_row,
        view=np.tile(np.arange(views), panoramas),
        latitude=latitude[panorama_of_row],
        longitude=longitude[panorama_of_row],
        borough=borough[panorama_of_row],
        no2=no2[panorama_of_row],
        traffic=traffic[panorama_of_row],
        vehicles=random.binomial(PLACES_FOR_VEHICLES, traffic[panorama_of_row]),
        greenery=greenery[panorama_of_row],
        sky=random.random(panoramas)[panorama_of_row],  # one sky over all views of a panorama, and one hour
        building_height=random.uniform(6, 24, rows),
        hour=random.uniform(7, 19, panoramas)[panorama_of_row],
    )


def borough_of(latitude: Floats, longitude: Floats) -> Ints:
    """Index into BOROUGHS (n,): north-west, north-east, south-west, south-east."""
    south = latitude < SOUTH + WIDTH / 2
    east = longitude >= WEST + WIDTH / 2
    return 2 * south.astype(np.int64) + east.astype(np.int64)


def field(latitude: Floats, longitude: Floats) -> Floats:
    """NO2 with invisible causes: the borough's level and a slow wave across the city."""
    x, y = (longitude - WEST) / WIDTH, (latitude - SOUTH) / WIDTH
    wave: Floats = 2.0 * np.sin(2 * np.pi * x) * np.cos(2 * np.pi * y)
    return np.asarray(BASE)[borough_of(latitude, longitude)] + wave


def saturating(traffic: Floats) -> Floats:
    """s(traffic), from 0 to 1: the first vehicles count most."""
    rising: Floats = -np.expm1(-STEEPNESS * traffic) / -np.expm1(-STEEPNESS)
    return rising


def expected_no2(latitude: Floats, longitude: Floats, traffic: Floats, greenery: Floats) -> Floats:
    """NO2 without the noise."""
    counts = np.asarray(TRAFFIC_COUNTS)[borough_of(latitude, longitude)]
    seen: Floats = FROM_TRAFFIC * counts * saturating(traffic) + FROM_GREENERY * greenery**2
    return field(latitude, longitude) + seen


def pictures(city: City, *, size: int = SIZE) -> Iterator[bytes]:
    """The rows' pictures as JPEG, one at a time."""
    for row in range(len(city)):
        yield jpeg(draw(city.factors(row), city.key(row), size=size))


def write_city(city: City, dest: Path, *, size: int = SIZE) -> Path:
    """images/*.jpg and stations.csv below `dest`; the CSV's path."""
    table = city.table()
    names = [
        f"{panorama}_{heading}.jpg"
        for panorama, heading in zip(table["panorama"].to_pylist(), table["heading"].to_pylist(), strict=True)
    ]
    write_pictures(city, names, dest / "images", size=size)
    path = dest / "stations.csv"
    pacsv.write_csv(table.add_column(0, "path", pa.array([f"images/{name}" for name in names])), path)
    return path


def write_pictures(city: City, names: Sequence[str], folder: Path, *, size: int = SIZE) -> None:
    """The rows' pictures as files in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in zip(names, pictures(city, size=size), strict=True):
        (folder / name).write_bytes(data)


def city_of(table: pa.Table) -> City:
    """The city that `table()` wrote, from the columns of packed shards."""
    names = table["panorama"].to_pylist()
    seeds = {name.partition("-")[0] for name in names}
    if len(seeds) != 1:
        raise SystemExit(f"panoramas of one city are needed; these are of {len(seeds)} seeds")
    columns: dict[str, Any] = {name: np.asarray(table[name].to_numpy()) for name in ("latitude", "longitude", *FACTORS)}
    return City(
        seed=int(seeds.pop()[1:]),
        panorama=np.array([int(name.partition("-")[2]) for name in names]),
        view=table["heading"].to_numpy() // (360 // HEADINGS),
        borough=np.array([BOROUGHS.index(name) for name in table["borough"].to_pylist()]),
        no2=np.asarray(table["no2"].to_numpy(), np.float64),
        traffic=np.asarray(table["traffic"].to_numpy(), np.float64),
        **columns,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dest", type=Path)
    parser.add_argument("--panoramas", type=int, default=1500)
    parser.add_argument("--views", type=int, default=HEADINGS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=int, default=SIZE)
    args = parser.parse_args()
    city = make_city(args.panoramas, views=args.views, seed=args.seed)
    print(f"wrote {write_city(city, args.dest, size=args.size)}: {len(city)} pictures")


if __name__ == "__main__":
    main()
