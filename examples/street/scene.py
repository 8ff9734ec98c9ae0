"""Draws one street scene: road, buildings, trees, sky, vehicles. numpy and Pillow; no files.

A scene is drawn from its factors and a key. Every part (buildings, trees, vehicles ...) has its own random stream. So
two scenes with the same key that differ in one factor differ in nothing else: an intervention, which shows what a
channel sees.

Colours are chosen so that two facts are certain (examples/street/planted.py): only the tail lights of vehicles are far
more red than green, and only the sky is far more blue than red.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Pixels: TypeAlias = npt.NDArray[np.uint8]
Colour: TypeAlias = tuple[int, int, int]

SIZE = 64  # pixels a side
FINER = 2  # drawn so many times larger, then averaged: smooth edges
QUALITY = 85  # of JPEG

CAMERA = 2.5  # metres above the road: higher than any vehicle, so that none of them hides the sky
HORIZON = 0.45  # of the picture's height, from the top
FOCAL = 0.8  # of the picture's width
ROAD, PAVEMENT = 6.4, 9.0  # metres from the middle to the kerb and to the house fronts

LANES = (-4.8, -1.6, 1.6, 4.8)
DEPTHS = (6.5, 8.5, 11.5, 16.0, 23.0)  # metres; so spaced that the vehicles of a lane hardly hide one another
MOST_VEHICLES = len(LANES) * len(DEPTHS)
MOST_TREES = 14

SKY: tuple[Colour, Colour, Colour] = ((92, 148, 232), (206, 210, 214), (240, 176, 128))  # blue, grey, orange
FRONTS: tuple[Colour, ...] = ((168, 162, 150), (146, 140, 134), (186, 178, 166), (124, 122, 122), (158, 150, 140))
BODIES: tuple[Colour, ...] = ((232, 232, 230), (176, 178, 180), (44, 44, 48), (96, 98, 100), (206, 196, 160))
LAMP: Colour = (250, 24, 30)

_BUILDINGS, _TREES, _VEHICLES, _GRAIN, _PAINT = range(5)


@dataclass(frozen=True)
class Factors:
    """The content of a picture. All but `hour` and `building_height` are counts or shares from 0 to 1.

    vehicles: 0 to 20; greenery: share of the places for trees that have one; sky: its colour, 0 blue, 0.5 grey, 1
    orange; building_height: metres; hour: 7 to 19, the light is dimmer towards both ends.
    """

    vehicles: int
    greenery: float
    sky: float
    building_height: float
    hour: float


def draw(factors: Factors, key: Sequence[int], *, size: int = SIZE) -> Pixels:
    """The scene as uint8 (size, size, 3). The same factors and key give the same pixels."""
    canvas = _Canvas(size * FINER)
    paint = _random(key, _PAINT)
    canvas.sky(factors.sky)
    canvas.ground(paint)
    canvas.buildings(factors.building_height, paint, _random(key, _BUILDINGS))
    canvas.road(paint)
    canvas.trees(factors.greenery, _random(key, _TREES))
    canvas.vehicles(factors.vehicles, _random(key, _VEHICLES))
    small = np.asarray(canvas.image.reduce(FINER), np.float32) * daylight(factors.hour)
    grain = _random(key, _GRAIN).standard_normal((size, size, 1), dtype=np.float32)  # grey: it leaves hues alone
    return np.clip(np.rint(small + 1.5 * grain), 0, 255).astype(np.uint8)


def jpeg(pixels: Pixels) -> bytes:
    """The scene as a JPEG without subsampled colours, because a tail light is a pixel or two."""
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
    return sink.getvalue()


def daylight(hour: float) -> float:
    """Brightness, 1 at 13 h and 0.6 at 7 and 19 h."""
    return 1.0 - 0.4 * (abs(hour - 13.0) / 6.0) ** 2


def sky_colour(sky: float) -> npt.NDArray[np.float64]:
    """RGB of the sky at the zenith."""
    return np.array([np.interp(sky, (0.0, 0.5, 1.0), [colour[band] for colour in SKY]) for band in range(3)])


class _Canvas:
    """A picture in perspective: x to the right and y up in metres, z in metres from the camera."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.image = Image.new("RGB", (size, size))
        self._draw = ImageDraw.Draw(self.image)

    def point(self, x: float, y: float, z: float) -> tuple[float, float]:
        scale = FOCAL * self.size / z
        return self.size / 2 + scale * x, HORIZON * self.size + scale * (CAMERA - y)

    def sky(self, sky: float) -> None:
        """Paler towards the horizon."""
        rows = int(np.ceil(HORIZON * self.size))
        share = np.linspace(0.0, 0.35, rows)[:, None]
        column = (1 - share) * sky_colour(sky) + share * 225.0
        pixels = np.broadcast_to(np.rint(column).astype(np.uint8)[:, None], (rows, self.size, 3))
        self.image.paste(Image.fromarray(np.ascontiguousarray(pixels)), (0, 0))

    def ground(self, paint: np.random.Generator) -> None:
        tone = int(paint.uniform(100, 190))
        self._draw.rectangle((0, int(HORIZON * self.size), self.size, self.size), fill=(tone, tone - 1, tone - 3))

    def road(self, paint: np.random.Generator) -> None:
        """Wet or dry, old or new: its grey differs from street to street more than its vehicles do."""
        tone = int(paint.uniform(52, 128))
        edge = [self.point(x, 0, z) for x, z in ((-ROAD, 3), (-ROAD, 300), (ROAD, 300), (ROAD, 3))]
        self._draw.polygon(edge, fill=(tone, tone, tone + 2))
        for lane in (-3.2, 0.0, 3.2):
            for start in (4, 8, 13, 20, 32):
                ends = [
                    (lane - 0.1, start),
                    (lane - 0.1, 1.25 * start),
                    (lane + 0.1, 1.25 * start),
                    (lane + 0.1, start),
                ]
                self._draw.polygon([self.point(x, 0, z) for x, z in ends], fill=(206, 206, 204))

    def buildings(self, height: float, paint: np.random.Generator, random: np.random.Generator) -> None:
        """House fronts on both sides, far ones first, with dark windows."""
        tone = paint.uniform(0.55, 1.3)
        for side in (-1, 1):
            edges = np.concatenate([[3.0], 3.0 + np.cumsum(random.uniform(5, 11, 9))])
            heights = height * random.uniform(0.75, 1.25, 9)
            colours = random.integers(len(FRONTS), size=9)
            for near, far, top, colour in list(zip(edges, edges[1:], heights, colours, strict=False))[::-1]:
                red, green, blue = (int(tone * value) for value in FRONTS[colour])
                self._wall(side * PAVEMENT, near, far, 0, top, (red, green, blue))
                for floor in np.arange(2.0, top - 1.5, 3.2):
                    self._wall(side * PAVEMENT, near + 0.8, far - 0.8, floor, floor + 1.3, (72, 72, 74))

    def trees(self, greenery: float, random: np.random.Generator) -> None:
        """A trunk and a crown at a share of the places along both kerbs."""
        places = [(side * 7.7, z) for z in (44.0, 33.0, 25.0, 19.0, 14.5, 11.0, 8.5) for side in (-1, 1)]
        places_taken = random.permutation(len(places))[: round(greenery * MOST_TREES)]
        sizes, tints = random.uniform(1.5, 2.3, len(places)), random.uniform(-14, 14, len(places))
        for place in sorted(places_taken.tolist()):
            (x, z), radius, tint = places[place], sizes[place], int(tints[place])
            self._box(x - 0.2, x + 0.2, 0, 3.2, z, (92, 80, 66))
            left, top = self.point(x - radius, 3.4 + 1.7 * radius, z)
            right, bottom = self.point(x + radius, 2.6, z)
            self._draw.ellipse((left, top, right, bottom), fill=(62 + tint, 122 + tint, 52 + tint))

    def vehicles(self, number: int, random: np.random.Generator) -> None:
        """Cars and vans from behind, far ones first: the first `number` of all places in an order of its own."""
        order = random.permutation(MOST_VEHICLES)
        kinds, shifts = random.random(MOST_VEHICLES), random.uniform(-0.25, 0.25, MOST_VEHICLES)
        bodies = random.integers(len(BODIES), size=MOST_VEHICLES)
        for place in sorted(order[:number].tolist(), reverse=True):
            depth, lane = divmod(place, len(LANES))
            x, z = LANES[lane] + shifts[place], DEPTHS[depth] * (1 + 0.2 * shifts[place])
            self._vehicle(x, z, 2.2 if kinds[place] < 0.2 else 1.5, BODIES[bodies[place]])

    def _vehicle(self, x: float, z: float, height: float, body: Colour) -> None:
        half_width = 0.95
        self._box(x - half_width - 0.1, x + half_width + 0.1, 0, 0.35, z, (24, 24, 26))  # wheels and shadow
        self._box(x - half_width, x + half_width, 0.3, 0.62 * height, z, body)
        self._box(x - 0.8 * half_width, x + 0.8 * half_width, 0.62 * height, height, z, body)
        self._box(x - 0.68 * half_width, x + 0.68 * half_width, 0.66 * height, 0.92 * height, z, (40, 42, 44))
        for side in (-1, 1):
            middle = x + side * 0.74 * half_width
            self._box(middle - 0.24, middle + 0.24, 0.55, 0.95, z, LAMP)

    def _box(self, left: float, right: float, bottom: float, top: float, z: float, colour: Colour) -> None:
        self._draw.rectangle((*self.point(left, top, z), *self.point(right, bottom, z)), fill=colour)

    def _wall(self, x: float, near: float, far: float, bottom: float, top: float, colour: Colour) -> None:
        corners = [(near, bottom), (near, top), (far, top), (far, bottom)]
        self._draw.polygon([self.point(x, y, z) for z, y in corners], fill=colour)


def _random(key: Sequence[int], part: int) -> np.random.Generator:
    return np.random.default_rng([*key, part])
