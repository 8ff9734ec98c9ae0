"""What `--layer`, `--group` and `--target` choose, in every verb: by exact name or glob, several of them. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from pcace_dist.datasets.groups import NULL, name_of
from pcace_dist.errors import UserError
from pcace_dist.progress.table import middle_cut
from pcace_dist.progress.terminal import visible

NAMED = 20  # so many names are listed in an error
NEAR = 3
NAME_CELLS = 80  # of a name in an error

T = TypeVar("T")
Wanted: TypeAlias = object
"""One name, glob or value, or a sequence of them; None: all there is."""


def choose(
    kind: str, wanted: Wanted, values: Sequence[T], names: Callable[[T], Iterable[str]], *, where: str
) -> list[T]:
    """The values that are wanted, in the order of `values`; all of them where `wanted` is None.

    kind: what they are, and where: what has them, for the error. names: what a value may be called, as it is shown
    first; of two values with the same name, the one that has it earlier is meant. An exact name comes before a glob.
    Raises UserError for a name that no value has, with those that are near.
    """
    if wanted is None:
        return list(values)
    called = [tuple(names(value)) for value in values]
    chosen: set[int] = set()
    for name in map(str, wanted if isinstance(wanted, list | tuple) else [wanted]):
        matching = _exact(name, called) or [i for i, own in enumerate(called) if any(fnmatchcase(n, name) for n in own)]
        if not matching and kind == "group" and [own[0] for own in called] == [NULL]:
            raise UserError(f"{where}: no group {short(name)!r}; it has one ranking over all images (no group_by)")
        if not matching:
            raise UserError(f"{where}: no {kind} {short(name)!r}{_there_are(name, [own[0] for own in called])}")
        chosen.update(matching)
    return [values[index] for index in sorted(chosen)]


def _exact(name: str, called: Sequence[tuple[str, ...]]) -> list[int]:
    """Those that have the name; of several only those that have it earliest among their names."""
    places = {index: own.index(name) for index, own in enumerate(called) if name in own}
    return [index for index, place in places.items() if place == min(places.values())]


def layer_names(layer: str) -> Iterable[str]:
    """What a layer or target may be called."""
    return (layer,)


def group_names(group: Any) -> Iterable[str]:
    """What a group may be called: as it is shown, and as it is written in other ways (`true`, `3.0`)."""
    text = str(group)
    yield name_of(group)
    if group is not None and text != NULL:
        yield text
    if isinstance(group, bool):
        yield text.lower()
    elif isinstance(group, float) and group.is_integer():
        yield f"{group:.0f}"


def _there_are(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name[:NAME_CELLS], [text[:NAME_CELLS] for text in known], n=NEAR)
    near = near or [text for text in known if name in text][:NEAR]
    if near:
        return f"; did you mean {', '.join(map(short, dict.fromkeys(near)))}?"
    more = f" and {len(known) - NAMED:,} more" if len(known) > NAMED else ""
    return f"; there are: {', '.join(map(short, known[:NAMED]))}{more}"


def short(name: str) -> str:
    """A name as a sentence can hold it: visible, and cut in the middle where it is long."""
    return middle_cut(visible(name), NAME_CELLS)


def rows_with(column: str, values: Sequence[Any], column_type: pa.DataType) -> pc.Expression:
    """The rows whose column has one of the values, as a filter."""
    of_values = pc.field(column).isin(pa.array([value for value in values if value is not None], column_type))
    return of_values | pc.field(column).is_null() if any(value is None for value in values) else of_values
