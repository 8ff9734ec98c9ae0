"""Classes from folders and from names of tars: which list they are numbered by, and what may be meant otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from pcace_dist.datasets.paths import Skipped, by_reason, parent_of
from pcace_dist.errors import DatasetError
from pcace_dist.packing.class_names import ClassNames, find_class_names, is_synset
from pcace_dist.storage.files import Storage

SPLITS = {"train", "val", "valid", "validation", "test", "dev"}


def reasons(faults: Sequence[Skipped]) -> str:
    """`: 6 link to nothing, 1 not an image`; empty for no faults."""
    counts = (f"{len(names):,} {reason}" for reason, names in by_reason(faults).items())
    return f": {', '.join(counts)}" if faults else ""


def listed_classes(folders: list[str], source: str, storage: Storage, notes: list[str]) -> ClassNames | None:
    if not all(map(is_synset, folders)):
        return None
    parents = [parent_of(source)]
    for _ in range(3):
        if parents[-1].count("/") <= (3 if "://" in parents[-1] else 1):
            break
        parents.append(parent_of(parents[-1]))
    found = find_class_names(source, storage, parents)
    if found is not None:
        notes.append(f"class names and indices are those of {found.origin}")
    return found


def doubts(folders: list[str], source: str) -> list[str]:
    """What may be meant otherwise."""
    if all(map(is_synset, folders)) and len(folders) != 1000:
        return [
            f"labels number the {len(folders)} folders; for ImageNet's own 1,000 indices name its list of classes "
            "with --classes LOC_synset_mapping.txt"
        ]
    if set(folders) <= SPLITS:
        return [f"the classes are {', '.join(folders)}; for one of these alone name {source.rstrip('/')}/{folders[0]}"]
    return []


def class_labels(folders: Sequence[str], counts: Mapping[str, int], classes: ClassNames, source: str) -> dict[str, int]:
    """Class index of each folder. A folder that holds no image may be missing in a list of classes."""
    places = {folder: index for index, folder in classes.folders.items()}
    for index, key in enumerate(classes.keys):
        places.setdefault(key, index)
    repeated = Counter(classes.keys)
    for folder in folders:
        if folder not in places and counts.get(folder):
            raise DatasetError(
                f"{source}: the folder {folder!r} is no class of {classes.origin}; name the list that has it with "
                "--classes"
            )
        if repeated[folder] > 1:
            raise DatasetError(f"--classes {classes.origin}: {folder!r} stands there more than once")
    return {folder: places[folder] for folder in folders if folder in places}
