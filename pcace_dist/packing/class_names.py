"""Names of classes: ImageNet's lists (`LOC_synset_mapping.txt`, `synset_words.txt`), plain lists, JSON.

The class index is the position of the line, as networks trained on ImageNet number their outputs. Knows nothing of
images or shards.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from pcace_dist.errors import DatasetError
from pcace_dist.storage.files import Storage, first_line

USUAL = ("LOC_synset_mapping.txt", "synset_words.txt", "synsets.txt", "imagenet_class_index.json")
SYNSET = re.compile(r"n\d{8}")
SYNSET_COLUMN = "synset"
CLASS_COLUMN = "class"
LARGEST_NUMBER = 100_000  # the largest label that the name of a folder may be
SHOWN = 6  # lines at the beginning and at the end of a long table


@dataclass(frozen=True)
class ClassNames:
    """Classes by index: their names, and WordNet ids where the list has them. `origin`: the list's path. `folders`: the
    folder's name by index, where it is neither name nor id."""

    names: tuple[str, ...]
    synsets: tuple[str, ...] | None = None
    origin: str | None = None
    folders: Mapping[int, str] = field(default_factory=dict)

    @property
    def keys(self) -> tuple[str, ...]:
        """The usual folder names of the classes."""
        return self.synsets or self.names

    def columns(self) -> dict[str, tuple[str, ...]]:
        """The class columns of the shards: name -> the value for each class index."""
        return ({SYNSET_COLUMN: self.synsets} if self.synsets else {}) | {CLASS_COLUMN: self.names}

    def fields(self) -> list[pa.Field]:
        return [pa.field(name, pa.string()) for name in self.columns()]


def is_synset(name: str) -> bool:
    """Whether a name is a WordNet id, as of ImageNet's folders: n01440764."""
    return SYNSET.fullmatch(name) is not None


def of_folders(folders: Sequence[str]) -> ClassNames:
    """The classes of sorted folders, numbered in this order, as torchvision does."""
    synsets = tuple(folders) if folders and all(map(is_synset, folders)) else None
    return ClassNames(tuple(folders), synsets)


def number_folders(folders: Sequence[str], numbering: str | None, source: str) -> tuple[ClassNames, list[str]]:
    """The classes of folders, which are sorted as text, as in torchvision's ImageFolder; and remarks.

    Folders named 0 to n - 1 have their names as labels. Where other numbers sort differently as text and by value,
    nothing is guessed: `numbering` must say `order` (as ImageFolder) or `number` (the name is the label). Raises
    DatasetError.
    """
    numbers = [int(name) for name in folders if name.isascii() and name.isdigit()]
    all_numbers = len(numbers) == len(folders) == len(set(numbers))
    in_order = all_numbers and numbers == sorted(numbers)
    if numbering == "number" and not all_numbers:
        not_a_number = next((name for name in folders if not name.isdigit()), folders[0])
        raise DatasetError(f"--labels number: the folder {not_a_number!r} of {source} is no number of its own")
    if numbering == "number" or (numbering is None and all_numbers and sorted(numbers) == list(range(len(folders)))):
        text = "" if in_order else "; ImageFolder sorts them as text, as --labels order does"
        return _by_number(dict(zip(numbers, folders, strict=True))), [f"labels are the folders' own numbers{text}"]
    if numbering is None and all_numbers and not in_order:
        raise DatasetError(
            f"{source}: its class folders are numbers ({', '.join(folders[:4])}, ...), which sort differently as text; "
            "say --labels number (the label is the folder's number) or --labels order (sorted as text, as ImageFolder)"
        )
    if all_numbers and numbers != list(range(len(folders))):
        position = next(position for position, number in enumerate(numbers) if position != number)
        example = f"{folders[position]!r} is {position}; with --labels number it is {numbers[position]}"
        return of_folders(folders), [f"labels number the folders in the order of their names: {example}"]
    return of_folders(folders), []


def _by_number(folders: Mapping[int, str]) -> ClassNames:
    """Classes whose indices are the numbers of their folders; a number without a folder is its class's name."""
    most = max(folders)
    if most > LARGEST_NUMBER:
        raise DatasetError(f"--labels number: the folder {folders[most]!r} is beyond {LARGEST_NUMBER:,}")
    return ClassNames(tuple(folders.get(number, str(number)) for number in range(most + 1)))


def class_table(labels: Mapping[str, int], images: Mapping[str, int]) -> list[str]:
    """A line for each class folder: its label, name and number of images; of many, only the first and last ones."""
    ordered = sorted(labels.items(), key=lambda item: item[1])
    counts = {folder: f" ({images.get(folder, 0):,} images)" if images else "" for folder in labels}
    lines = [f"label {label}: {folder}{counts[folder]}" for folder, label in ordered]
    if len(lines) <= 2 * SHOWN:
        return lines
    return [*lines[:SHOWN], f"... {len(lines) - 2 * SHOWN:,} more ...", *lines[-SHOWN:]]


def read_class_names(url: str, storage: Storage, key: str = "--classes") -> ClassNames:
    """Read a list of classes. Raises DatasetError, one line that names the option or key."""
    try:
        text = storage.read_bytes(url).decode("utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{key} {first_line(error)}") from None
    except UnicodeDecodeError:
        raise DatasetError(f"{key} {url}: is not a text file") from None
    pairs = _from_json(text, f"{key} {url}") if text.lstrip()[:1] in ("{", "[") else _from_lines(text)
    if not pairs:
        raise DatasetError(f"{key} {url}: is empty; a line for each class is needed, like 'n01440764 tench'")
    synsets = tuple(key for key, _ in pairs)
    repeated = [key for key, count in Counter(filter(None, synsets)).items() if count > 1]
    if repeated:
        raise DatasetError(f"{key} {url}: {repeated[0]} is listed more than once")
    return ClassNames(tuple(name for _, name in pairs), synsets if all(synsets) else None, url)


def find_class_names(folder: str, storage: Storage, parents: Sequence[str]) -> ClassNames | None:
    """ImageNet's own list of classes in the folder or in one of `parents` (Kaggle's is three levels up), if any."""
    for parent in (folder, *parents):
        for name in USUAL:
            url = f"{parent.rstrip('/')}/{name}"
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
        return [(head, class_name.strip() or head) for head, _, class_name in heads]
    return [("", line) for line in lines]


def _from_json(text: str, url: str) -> list[tuple[str, str]]:
    """Keras's imagenet_class_index.json: {"0": ["n01440764", "tench"], ...}; id2label of transformers:
    {"0": "tench", ...}; or a list of names."""
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            numbered = {int(key): value for key, value in content.items()}
            content = [numbered[index] for index in range(len(numbered))]
        pairs = [("", value) if isinstance(value, str) else tuple(value) for value in content]
        return [(str(synset), str(name)) for synset, name in pairs]
    except (ValueError, KeyError, TypeError):
        raise DatasetError(f'{url}: is not a list of classes like {{"0": ["n01440764", "tench"]}}') from None
