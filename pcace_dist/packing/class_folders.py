"""Classes from the names of folders or tars: the list of classes that numbers them, and remarks on doubtful cases."""

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
    """ImageNet's list of classes beside or above the source, for folders named by WordNet ids; None where there is
    none."""
    if not all(map(is_synset, folders)):
        return None
    parents = [parent_of(source)]
    for _ in range(3):
        if parents[-1].count("/") <= (3 if "://" in parents[-1] else 1):
            break
        parents.append(parent_of(parents[-1]))
    classes = find_class_names(source, storage, parents)
    if classes is not None:
        notes.append(f"class names and indices are those of {classes.origin}")
    return classes


def doubts(folders: list[str], source: str) -> list[str]:
    """Remarks on folders that may mean something else than classes numbered in order."""
    if all(map(is_synset, folders)) and len(folders) != 1000:
        return [
            f"labels number the {len(folders)} folders; for ImageNet's own 1,000 indices name its list of classes "
            "with --classes LOC_synset_mapping.txt"
        ]
    if set(folders) <= SPLITS:
        return [f"the classes are {', '.join(folders)}; for one of these alone name {source.rstrip('/')}/{folders[0]}"]
    return []


def class_labels(folders: Sequence[str], counts: Mapping[str, int], classes: ClassNames, source: str) -> dict[str, int]:
    """Class index of each folder. Only a folder without images may be missing in the list of classes."""
    index_of = {folder: index for index, folder in classes.folders.items()}
    for index, key in enumerate(classes.keys):
        index_of.setdefault(key, index)
    repeated = Counter(classes.keys)
    for folder in folders:
        if folder not in index_of and counts.get(folder):
            raise DatasetError(
                f"{source}: the folder {folder!r} is no class of {classes.origin}; name the list that has it with "
                "--classes"
            )
        if repeated[folder] > 1:
            raise DatasetError(f"--classes {classes.origin}: {folder!r} is listed more than once")
    return {folder: index_of[folder] for folder in folders if folder in index_of}
