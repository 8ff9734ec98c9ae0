"""Image folders: each folder below the source is a class. Classes are numbered before any file is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from pcace_dist.datasets.formats import IMAGE_SUFFIXES
from pcace_dist.datasets.paths import Skipped, first_names, identity_of, in_order, utf8_name
from pcace_dist.datasets.walk import HIDDEN, Found, Walked
from pcace_dist.errors import DatasetError
from pcace_dist.packing.class_folders import class_labels, doubts, listed_classes, reasons
from pcace_dist.packing.class_names import ClassNames, number_folders
from pcace_dist.packing.source import IMAGE_TYPE, Reading, Request, Row, Source, read_image
from pcace_dist.storage.files import Storage

NAMED = 3  # files that a remark names


def open_folder(walked: Walked, request: Request) -> Source:
    """The images of a folder. The class is the folder below it, the label the position among all sorted folders.

    With a list of classes (given, or ImageNet's own, beside or above folders named by WordNet ids) the label is the
    position in that list, so that a part of ImageNet keeps the indices that networks know. Folders are numbered before
    any file is left out, as ImageFolder does with `allow_empty`.
    """
    storage, classes, reading, source = request.storage, request.classes, request.reading, walked.root
    images, walked = walked.only("image", "not an image")
    if not images:
        raise DatasetError(f"{source}: holds no image ({', '.join(IMAGE_SUFFIXES)}){reasons(walked.left_out)}")
    counts = Counter(_class_of(image.key) for image in images if "/" in image.key)
    notes = [*walked.notes, *_by_content(images)]
    labels: dict[str, int] = {}
    if counts:
        folders = [utf8_name(name) for name in walked.folders]
        classes = _classes_of(folders, counts, classes, source, storage, reading, notes)
        labels = class_labels(folders, counts, classes, source)
        notes += _empty_classes(labels, counts, walked, reading)
    elif classes is not None:
        raise DatasetError(f"{source}: --classes needs a folder for each class; the images lie in none")
    fields = [pa.field("image", IMAGE_TYPE)]
    fields += [pa.field("label", pa.int64()), *classes.fields()] if classes else []
    entries = tuple(
        (image.key, image.file.url, labels[_class_of(image.key)] if labels and "/" in image.key else None)
        for image in images
    )
    files = [image.file for image in images]
    return Source(
        "folder",
        pa.schema(fields),
        identity_of(files, source),
        [f.size for f in files],
        lambda start, stop: FolderSlice(entries[start:stop], bool(labels)),
        classes=classes,
        notes=tuple(notes),
        left_out=walked.left_out,
        labels=labels,
        images=counts,
    )


def _class_of(key: str) -> str:
    return key.partition("/")[0]


def _classes_of(
    folders: Sequence[str],
    counts: Mapping[str, int],
    given_classes: ClassNames | None,
    source: str,
    storage: Storage,
    reading: Reading,
    notes: list[str],
) -> ClassNames:
    """The classes of folders: from the list that is given or found, else from the folders themselves."""
    if given_classes is not None and reading.labels is not None:
        raise DatasetError("--labels and --classes: only one of them can number the folders")
    filled = sorted(counts)
    classes = given_classes or listed_classes(filled, source, storage, notes)
    if classes is not None:
        return _with_numbers(classes, folders, counts)
    notes += doubts(filled, source)
    numbered, remarks = number_folders(folders, reading.labels, source)
    notes += remarks
    return numbered


def _with_numbers(classes: ClassNames, folders: Sequence[str], counts: Mapping[str, int]) -> ClassNames:
    """The list of classes; where the folders' names are indices of it (ImageNet-V2's 0 to 999), with these as
    `folders`."""
    numbers = {int(name): name for name in folders if name in counts and name.isascii() and name.isdigit()}
    are_indices = (
        len(numbers) == len(counts) and max(numbers) < len(classes.names) and not set(counts) & set(classes.keys)
    )
    return replace(classes, folders=numbers) if are_indices else classes


def _empty_classes(labels: Mapping[str, int], counts: Mapping[str, int], walked: Walked, reading: Reading) -> list[str]:
    """Remarks on classes without an image. Raises DatasetError where the files of one are all left out, unless
    `allow_empty_classes`."""
    by_class: dict[str, list[Skipped]] = {}
    for fault in walked.left_out:
        by_class.setdefault(_class_of(fault.name), []).append(fault)
    notes = []
    for folder, label in labels.items():
        if counts.get(folder):
            continue
        faults = [fault for fault in by_class.get(folder, []) if fault.reason != HIDDEN]
        if faults and not reading.allow_empty_classes:
            raise lost_class(walked.root, folder, label, faults)
        notes.append(f"the class {folder!r} has no image{reasons(faults)}; it keeps its label {label}")
    return notes


def lost_class(source: str, folder: str, label: int, faults: Sequence[Skipped]) -> DatasetError:
    """The error for a class whose files are all left out."""
    return DatasetError(
        f"{source}: no file of the class {folder!r} (label {label}) can be packed{reasons(faults)}; put images there, "
        "remove the folder, or keep its label without images with --allow-empty-classes"
    )


def _by_content(images: Sequence[Found]) -> list[str]:
    """A remark on files that are images by their first bytes, but not by their names."""
    without_suffix = [image.key for image in images if image.by_content]
    return [f"images that only their first bytes show: {first_names(without_suffix, NAMED)}"] if without_suffix else []


@dataclass(frozen=True)
class FolderSlice:
    """Image files: key, URL, class index (None: the file is in no class folder)."""

    files: tuple[tuple[str, str, int | None], ...]
    labelled: bool

    def rows(self, storage: Storage) -> Iterator[Row | Skipped]:
        def row(file: tuple[str, str, int | None]) -> Row | Skipped:
            key, url, label = file
            if self.labelled and label is None:
                return Skipped(key, "lies beside the class folders, not in one")
            return read_image(storage, url, key, {"label": label} if self.labelled else {})

        return in_order(row, self.files, storage)
