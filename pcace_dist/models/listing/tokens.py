"""What the tokens, heads and MLP channels of a vision transformer are, as far as its modules and shapes say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from torch import nn

from pcace_dist.models.listing.layer import FoundLayer

CLS = ("cls_token", "class_token", "class_embedding")  # what the parameter of the CLS token is called
HEADS = ("num_heads", "num_attention_heads", "n_heads")
MOST_BEFORE = 16  # tokens before those of the patches
TOKENS = "BNC"
PROJECTIONS = {  # what the layers are called whose channels are heads, and what they give
    **dict.fromkeys(("q", "q_proj", "query", "to_q"), ("query",)),
    **dict.fromkeys(("k", "k_proj", "key", "to_k"), ("key",)),
    **dict.fromkeys(("v", "v_proj", "value", "to_v"), ("value",)),
    **dict.fromkeys(("qkv", "to_qkv"), ("query", "key", "value")),
}
MOST = 0.8  # of the norms of a transformer without stages


@dataclass(frozen=True)
class Transformer:
    """tokens: how many. patches: rows and columns of those that are patches of the image; None where nothing tells.
    cls: whether the first token is a CLS token. width: channels of a token. heads: of its attention, each has width /
    heads channels; None where no module says. mlp: hidden channels of its MLPs; mlp_globs: the layers that give them.
    """

    tokens: int
    patches: tuple[int, ...] | None
    cls: bool
    width: int
    heads: int | None
    mlp: int | None
    mlp_globs: tuple[str, ...]

    @property
    def before(self) -> int | None:
        """Tokens that come before the patches: the CLS token, registers."""
        return None if self.patches is None else self.tokens - prod(self.patches)


def transformer_of(model: nn.Module, layers: Sequence[FoundLayer]) -> Transformer | None:
    """None for a network whose norms are not on tokens (B, N, C), most of them as many and as wide."""
    modules = dict(model.named_modules())
    norms = [layer for layer in layers if isinstance(modules[layer.name], nn.LayerNorm) and layer.map]
    sizes = Counter((norm.map[0], norm.channels) for norm in norms if norm.layout == TOKENS and norm.map)
    (tokens, width), count = sizes.most_common(1)[0] if sizes else ((0, None), 0)
    if width is None or count < MOST * len(norms):
        return None
    hidden = [layer for layer in layers if layer.layout == TOKENS and _is_hidden(modules, layer.name, width)]
    return Transformer(
        tokens=tokens,
        patches=patches_of(layers, tokens),
        cls=any(name.rpartition(".")[2] in CLS for name, _ in model.named_parameters()),
        width=width,
        heads=_usual(heads for part in modules.values() for heads in _heads(part)),
        mlp=_usual(layer.channels or 0 for layer in hidden),
        mlp_globs=tuple(dict.fromkeys(layer.glob for layer in hidden)),
    )


def _usual(values: Iterable[int]) -> int | None:
    """The most frequent value; of several the first."""
    counts = Counter(values)
    return counts.most_common(1)[0][0] if counts else None


def patches_of(layers: Sequence[FoundLayer], tokens: int) -> tuple[int, ...] | None:
    """Rows and columns of so many tokens, less those before the patches: the map of the convolution that makes the
    patches, or half of it, a quarter, ..., where a network merges them. None where nothing tells."""
    maps = [layer.map for layer in layers if layer.all and layer.map and len(layer.map) == 2]
    sizes = (size for first in maps for size in _halves(first))
    return next((size for size in sizes if 0 <= tokens - prod(size) <= MOST_BEFORE), None)


def _halves(size: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    yield size
    while all(side % 2 == 0 for side in size):
        size = tuple(side // 2 for side in size)
        yield size


@dataclass(frozen=True)
class Heads:
    """A layer whose channels are those of attention heads, one part after the other. parts: query, key, value; heads:
    of each part; width: channels of a head."""

    parts: tuple[str, ...]
    heads: int
    width: int


def heads_of(transformer: Transformer, layer: FoundLayer) -> Heads | None:
    """None for a layer that is not known to give heads."""
    parts = PROJECTIONS.get(layer.name.rpartition(".")[2])
    if parts is None or not transformer.heads or layer.channels != len(parts) * transformer.width:
        return None
    return Heads(parts, transformer.heads, transformer.width // transformer.heads)


def _is_hidden(modules: Mapping[str, nn.Module], name: str, width: int) -> bool:
    """Whether a linear layer leads from a token to what another leads back from, perhaps through a gate of half."""
    module = modules[name]
    if not isinstance(module, nn.Linear) or module.in_features != width or module.out_features in (width, 3 * width):
        return False
    back = {part.in_features for part in modules.values() if isinstance(part, nn.Linear) and part.out_features == width}
    return module.out_features in back or module.out_features / 2 in back


def _heads(module: nn.Module) -> list[int]:
    values = (getattr(module, name, None) for name in HEADS)
    return [value for value in values if isinstance(value, int)]
