"""Globs that select layers which are alike, and no others."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence

from torch import nn

from pcace_dist.errors import ModelError
from pcace_dist.models.layers import resolve_layers

ANY, DIGIT = "*", "[0-9]"
NUMBER = re.compile(r"\d+$")
LAST_NUMBER = re.compile(r"(?:^|(?<=_))\d+$")


def row_globs(model: nn.Module, rows: Mapping[str, Hashable]) -> dict[str, str]:
    """By layer: a glob that selects it together with all others of an equal row whose names differ in numbers only, and
    nothing else; its own name where there is no such glob."""
    groups: dict[Hashable, list[str]] = {}
    for name, row in rows.items():
        words = tuple(word for word, _ in _parts(name))
        groups.setdefault((words, row), []).append(name)
    chosen: dict[str, str] = {}
    for names in groups.values():
        for part, glob in _selecting(model, names):
            chosen |= dict.fromkeys(part, glob)
    return chosen


def _parts(name: str) -> list[tuple[str, str]]:
    """What stands between dots, as (word, number): `layer_3.mlp.0` -> ("layer_", "3"), ("mlp", ""), ("", "0").

    At the end of a name a number counts only if it stands alone or after `_`: fc1 and fc2 are no two of a kind.
    """
    *inner, last = name.split(".")
    return [*(_split(part, NUMBER) for part in inner), _split(last, LAST_NUMBER)]


def _split(part: str, number: re.Pattern[str]) -> tuple[str, str]:
    found = number.search(part)
    return (part, "") if found is None else (part[: found.start()], found.group())


def _selecting(model: nn.Module, names: Sequence[str]) -> Iterator[tuple[Sequence[str], str]]:
    """Parts of `names`, each with the glob that selects just it: by `*`, else by digits, else each by its own name."""
    for wildcard in (ANY, DIGIT) if len(names) > 1 else ():
        lengths = sorted({tuple(len(number) for _, number in _parts(name)) for name in names})
        if wildcard == DIGIT and len(lengths) > 1:
            for length in lengths:
                yield from _selecting(model, [n for n in names if tuple(len(d) for _, d in _parts(n)) == length])
            return
        glob = _glob(names, wildcard)
        if _selects(model, glob, names):
            yield names, glob
            return
    yield from (([name], name) for name in names)


def _glob(names: Sequence[str], wildcard: str) -> str:
    """The words that all names have, and wildcards for numbers that differ."""
    columns = zip(*map(_parts, names), strict=True)
    return ".".join(column[0][0] + _wildcard([number for _, number in column], wildcard) for column in columns)


def _wildcard(numbers: Sequence[str], wildcard: str) -> str:
    if len(set(numbers)) == 1:
        return numbers[0]
    return wildcard if wildcard == ANY else wildcard * len(numbers[0])


def _selects(model: nn.Module, glob: str, names: Sequence[str]) -> bool:
    try:
        return resolve_layers(model, [glob]) == list(names)
    except ModelError:
        return False
