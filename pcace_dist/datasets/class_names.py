"""Names of classes: ImageNet's lists (`LOC_synset_mapping.txt`, `synset_words.txt`), plain lists, Keras's JSON.

The line's place is the class index, as networks trained on ImageNet number their outputs. Knows nothing of images or
shards.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from pcace_dist.datasets.storage import Storage, first_line
from pcace_dist.errors import DatasetError

USUAL = ("LOC_synset_mapping.txt", "synset_words.txt", "synsets.txt", "imagenet_class_index.json")
SYNSET = re.compile(r"n\d{8}")
SYNSET_COLUMN = "synset"
CLASS_COLUMN = "class"


@dataclass(frozen=True)
class ClassNames:
    """Classes by index: their names, and WordNet ids where the list has them. `origin`: the list's path."""

    names: tuple[str, ...]
    synsets: tuple[str, ...] | None = None
    origin: str | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """What a class's folder is called."""
        return self.synsets or self.names

    def columns(self) -> dict[str, tuple[str, ...]]:
        """Columns of the shards, with the value for each class index."""
        return ({SYNSET_COLUMN: self.synsets} if self.synsets else {}) | {CLASS_COLUMN: self.names}

    def fields(self) -> list[pa.Field]:
        return [pa.field(name, pa.string()) for name in self.columns()]


def is_synset(name: str) -> bool:
    """True for WordNet ids as ImageNet's folders have them: n01440764."""
    return SYNSET.fullmatch(name) is not None


def of_folders(folders: Sequence[str]) -> ClassNames:
    """Classes by the sorted names of their folders, as torchvision numbers them."""
    synsets = tuple(folders) if folders and all(map(is_synset, folders)) else None
    return ClassNames(tuple(folders), synsets)


def read_class_names(url: str, storage: Storage) -> ClassNames:
    """Read a list of classes. Raises DatasetError, one line."""
    try:
        text = storage.read_bytes(url).decode("utf-8-sig")
    except OSError as error:
        raise DatasetError(f"--classes {first_line(error)}") from None
    except UnicodeDecodeError:
        raise DatasetError(f"--classes {url}: is not a text file") from None
    pairs = _from_json(text, url) if text.lstrip().startswith("{") else _from_lines(text)
    if not pairs:
        raise DatasetError(f"--classes {url}: is empty; a line for each class is needed, like 'n01440764 tench'")
    synsets = tuple(key for key, _ in pairs)
    twice = [key for key, count in Counter(filter(None, synsets)).items() if count > 1]
    if twice:
        raise DatasetError(f"--classes {url}: {twice[0]} stands there more than once")
    return ClassNames(tuple(name for _, name in pairs), synsets if all(synsets) else None, url)


def find_class_names(folder: str, storage: Storage, parents: Sequence[str]) -> ClassNames | None:
    """ImageNet's own list in the folder or one of its parents (Kaggle's lies three levels up), if there is one."""
    for place in (folder, *parents):
        for name in USUAL:
            url = f"{place.rstrip('/')}/{name}"
            try:
                if storage.stat(url) is not None:
                    return read_class_names(url, storage)
            except OSError:
                continue  # a parent that may not be read
    return None


def _from_lines(text: str) -> list[tuple[str, str]]:
    """(WordNet id or '', name) of each line: `n01440764 tench`, `n01440764` alone, or a name."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    heads = [line.replace("\t", " ").partition(" ") for line in lines]
    if lines and all(is_synset(head) for head, _, _ in heads):
        return [(head, rest.strip() or head) for head, _, rest in heads]
    return [("", line) for line in lines]


def _from_json(text: str, url: str) -> list[tuple[str, str]]:
    """Keras's imagenet_class_index.json: {"0": ["n01440764", "tench"], ...}."""
    try:
        content = {int(key): value for key, value in json.loads(text).items()}
        ordered = [content[index] for index in range(len(content))]
        return [(str(synset), str(name)) for synset, name in ordered]
    except (ValueError, KeyError, TypeError):
        raise DatasetError(f'--classes {url}: is not a list of classes like {{"0": ["n01440764", "tench"]}}') from None
