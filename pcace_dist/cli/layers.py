"""The verb layers: what there is to rank in a model. Everything heavy is imported when it runs."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from pcace_dist.cli.arguments import add_overrides, mapping
from pcace_dist.cli.parser import AddVerb
from pcace_dist.errors import JobError
from pcace_dist.progress.terminal import tell, terminal_width

if TYPE_CHECKING:
    from pcace_dist.commands.layers import Listing
    from pcace_dist.models.listing.layer import FoundLayer
    from pcace_dist.models.listing.tokens import Transformer

JOB_FILES = (".yaml", ".yml", ".json")
IN_FILES = 160  # columns where stdout is no terminal
WIDE_ENOUGH = 100  # columns for a table with all words written out
COLUMNS = ("type", "n", "channels", "map", "axes", "parameters", "taken by")
NARROW = ("type", "n", "chan.", "map", "axes", "param.", "taken")
TYPE, NARROW_TYPE = 20, 12  # columns of a class's name at most
GLOBS = 6  # in a line
LEAST = 18  # columns for the names of layers


def add_verb(add: AddVerb) -> None:
    """Add the verb."""
    verb = add(
        "layers",
        "what there is to rank in a model: its layers, with the globs that select them, and what `layers: all` takes",
        "pcace layers torchvision:resnet18\n"
        "  pcace layers timm:create_model --kwargs '{model_name: vit_tiny_patch16_224}'\n"
        "  pcace layers job.yaml --size 96",
    )
    verb.add_argument("model", metavar="FACTORY|JOB.yaml", help="a factory as in model.factory, or a job file")
    verb.add_argument("--kwargs", metavar="MAPPING", help="arguments of the factory, as in model.kwargs: JSON or YAML")
    add_overrides(verb)
    verb.add_argument(
        "--size",
        type=_size,
        metavar="N",
        help="side of the images, or HxW, for the size of the maps (default: the job's)",
    )
    verb.add_argument("--json", action="store_true", help="print a JSON object with all layers, one by one")
    verb.set_defaults(run=_layers)


def _size(text: str) -> int | tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r}: write a number of pixels as 224, or height and width as 224x320")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def _layers(arguments: argparse.Namespace) -> int:
    listing = _listing(arguments)
    tell(json.dumps(listing.to_json(), indent=2) if arguments.json else "\n".join(_told(listing)))
    return 0


def _listing(arguments: argparse.Namespace) -> Listing:
    if arguments.model.endswith(JOB_FILES):
        if arguments.kwargs is not None:
            raise JobError("--kwargs: is for a factory; of a job file use --set model.kwargs.NAME=VALUE")
        from pcace_dist.config.job import load_job_file

        job = load_job_file(arguments.model, arguments.overrides)
        from pcace_dist.commands.layers import layers_of_job

        return layers_of_job(job, arguments.size)
    if ":" not in arguments.model:
        raise JobError(
            f"{arguments.model}: is neither a job file ({', '.join(JOB_FILES)}) nor a factory, torchvision:NAME or "
            "module:function"
        )
    if arguments.overrides:
        raise JobError("--set: is for a job file; of a factory use --kwargs")
    from pcace_dist.commands.layers import layers_of_factory

    kwargs = mapping("--kwargs", arguments.kwargs or "{}", "{num_classes: 10}")
    return layers_of_factory(arguments.model, kwargs, arguments.size)


# -- the text


def _told(listing: Listing) -> Iterator[str]:
    width = _width()
    yield from _wrapped(_heading(listing), width)
    yield ""
    yield from _table(listing, width)
    yield ""
    for line in _below(listing):
        yield from _wrapped(line, width)


def _width() -> int:
    return terminal_width() or IN_FILES


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _heading(listing: Listing) -> str:
    what, size = f"{listing.model}: {listing.parameters:,} parameters", listing.found.size
    if size is None:
        return f"{what}; sizes of maps are not known: {listing.images}"
    return f"{what}; maps of images of {' x '.join(map(str, size))} ({listing.images})"


def _below(listing: Listing) -> Iterator[str]:
    found = listing.found
    convs = [layer for layer in found.layers if layer.all]
    others = [layer for layer in found.layers if layer.type.endswith("Linear") and layer.map]
    yield f"layers: all takes {_count(convs)}" if convs else "layers: all takes convolutions, and there are none"
    if others:
        globs = list(dict.fromkeys(layer.glob for layer in others))
        more = f" and {len(globs) - GLOBS} more" if len(globs) > GLOBS else ""
        yield f"it leaves out linear layers on tokens or maps: {', '.join(globs[:GLOBS])}{more}: {_count(others)}"
    if listing.taken is not None:
        yield f"the job takes {_count([layer for layer in found.layers if layer.name in listing.taken])}"
    if found.transformer is not None:
        yield from _told_of_tokens(found.transformer)
    if any(layer.layout == "?" for layer in found.layers):
        yield "axes ?: nothing tells which axis is the channel; say it: layers: [{name: ..., layout: BHWC}]"
    if found.not_listed:
        reasons = Counter(found.not_listed.values()).most_common()
        yield f"not listed: {', '.join(f'{count} ({why})' for why, count in reasons)}"
    if listing.classes:
        names = [name for _, name in sorted(listing.classes.items())]
        yield f"classes: {len(names):,}, from {names[0]} to {names[-1]}"


def _count(layers: list[FoundLayer]) -> str:
    channels = sum(layer.channels or 0 for layer in layers)
    return f"{len(layers)} layer{'' if len(layers) == 1 else 's'}, {channels:,} channels"


def _told_of_tokens(tokens: Transformer) -> Iterator[str]:
    patches = "" if tokens.patches is None else f": {' x '.join(map(str, tokens.patches))} patches"
    before = f", {tokens.before} before them" if tokens.before else ""
    first = "; position 0 of a map is the CLS token" if tokens.cls and tokens.before else ""
    yield f"transformer: {tokens.tokens} tokens of {tokens.width:,} channels{patches}{before}{first}"
    if tokens.heads:
        each = tokens.width // tokens.heads
        yield f"heads: {tokens.heads} of {each} channels; head 0 is channels 0 to {each - 1} of queries, keys, values"
    if tokens.mlp:
        yield f"MLP: {tokens.mlp:,} channels; layers: {', '.join(tokens.mlp_globs)}"


def _table(listing: Listing, width: int) -> Iterator[str]:
    """A line for each layer, or each glob of layers that are alike; a name that does not fit has a line of its own."""
    narrow = width < WIDE_ENOUGH
    rows = [_row(list(alike), listing.taken, narrow) for _, alike in groupby(_ordered(listing), lambda one: one.glob)]
    rows = [("layers", NARROW if narrow else COLUMNS), *rows]
    widths = [max(map(len, column)) for column in zip(*(cells for _, cells in rows), strict=True)]
    room = max(LEAST, width - sum(widths) - 2 * len(widths))
    names = max(len(name) for name, _ in rows if len(name) <= room)
    for name, (kind, *numbers, taken) in rows:
        if len(name) > names:
            yield name
        aligned = [cell.rjust(size) for cell, size in zip(numbers, widths[1:-1], strict=True)]
        cells = [(name if len(name) <= names else "").ljust(names), kind.ljust(widths[0]), *aligned, taken]
        yield "  ".join(cells).rstrip()


def _ordered(listing: Listing) -> list[FoundLayer]:
    """In model order, layers of one glob together."""
    first: dict[str, int] = {}
    for at, layer in enumerate(listing.found.layers):
        first.setdefault(layer.glob, at)
    return sorted(listing.found.layers, key=lambda layer: first[layer.glob])


def _row(alike: list[FoundLayer], taken: tuple[str, ...] | None, narrow: bool) -> tuple[str, tuple[str, ...]]:
    layer, longest = alike[0], NARROW_TYPE if narrow else TYPE
    kind = layer.type if len(layer.type) <= longest else f"{layer.type[: longest - 2]}.."
    by = ["all"] * layer.all + ["job"] * any(one.name in (taken or ()) for one in alike)
    size = "" if layer.map is None else "x".join(map(str, layer.map)) or "1"
    channels = "" if layer.channels is None else f"{layer.channels:,}"
    parameters = sum(one.parameters for one in alike)
    weights = _short(parameters) if narrow else f"{parameters:,}"
    return layer.glob, (kind, str(len(alike)), channels, size, layer.layout or "", weights, " ".join(by))


def _short(number: int) -> str:
    """9408 as 9.4k, 11689512 as 11.7M."""
    for unit, word in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.1f}{word}"
    return str(number)
