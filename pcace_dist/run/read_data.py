"""Decides how a run reads its data: what labels mean, what classes are called, which folders are columns. No Ray."""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from pcace_dist.artifacts.checked import read_table
from pcace_dist.artifacts.reading.data_reading import IMAGE_LISTS, DataReading, ImageList, of_images
from pcace_dist.config.job import Job
from pcace_dist.config.resolve import absolute
from pcace_dist.datasets.columns import DatasetSpec
from pcace_dist.datasets.listing import Listing, NoParquet, list_dataset, summed
from pcace_dist.datasets.values.image_files import IMAGE
from pcace_dist.datasets.values.labels import is_text
from pcace_dist.errors import DatasetError, JobError, OutputError
from pcace_dist.models.library.class_names import class_names
from pcace_dist.packing.class_names import ClassNames, read_class_names
from pcace_dist.packing.image_index import ImageIndex, index_images
from pcace_dist.progress import logs
from pcace_dist.storage.files import Storage, first_line

Names = Mapping[int, str]

GIVEN, DATA, MODEL = "dataset.classes", "the data", "the model"


@dataclass(frozen=True)
class OpenedData:
    """The data set as it is read, its listing, and the list of its images where these are files of their own."""

    dataset: DatasetSpec
    listing: Listing
    images: ImageList | None = None


def open_data(
    job: Job, dataset: DatasetSpec, storage: Storage, manifest: Mapping[str, Any] | None, place: str
) -> OpenedData:
    """List the job's data, as the run of this manifest does. A list of images is written below `place`.

    Raises DatasetError, one line.
    """
    classes = given_classes(job, storage)
    if manifest is not None:
        reading = DataReading.of(manifest)
        begun = reading.applied(dataset, place)
        if reading.images is not None:
            _check_unchanged(begun, index_images(dataset.path[0], storage, dataset.image, classes), storage)
        return OpenedData(begun, list_dataset(begun, storage), reading.images)
    return open_any(dataset, storage, place, classes)


def open_any(dataset: DatasetSpec, storage: Storage, place: str, classes: ClassNames | None) -> OpenedData:
    """Parquet files, or a folder of images or a CSV, whose list is written below `place`."""
    try:
        return OpenedData(dataset, list_dataset(dataset, storage))
    except NoParquet as error:
        if len(dataset.path) > 1 or not error.has_images:
            raise
    index = index_images(dataset.path[0], storage, dataset.image, classes)
    for note in index.notes:
        logs.say(note, prefix="pcace: dataset.path: ")
    images = ImageList(f"{IMAGE_LISTS}/{index.name}", index.id)
    dataset = of_images(dataset, images, place)
    try:
        storage.put_bytes(index.data, dataset.path[0])
    except OSError as error:
        raise OutputError(first_line(error)) from None
    return OpenedData(dataset, replace(list_dataset(dataset, storage), left_out=summed(index.left_out)), images)


def refuse_images(job: Job, opened: OpenedData) -> None:
    """Raise JobError where `extend` would find no file again: a list of images is a new one with each new image."""
    if opened.images is not None:
        raise JobError(
            f"extend: dataset.path {job.dataset.path[0]} is a folder of images; extend runs over Parquet files, which "
            "`pcace pack` makes"
        )


def _check_unchanged(dataset: DatasetSpec, today: ImageIndex, storage: Storage) -> None:
    """Raise DatasetError where a listed image is gone or has changed. Those that came later are ignored."""
    known = {image["path"]: image for image in _images_in(today.data)}
    for image in _images_in(storage.read_bytes(dataset.path[0])):
        if known.get(image["path"]) != image:
            what = "has changed" if image["path"] in known else "is gone"
            raise DatasetError(
                f"dataset.path: {image['path']} {what} since the run began; restore it, or use a new output"
            )


def _images_in(data: bytes) -> Iterator[dict[str, Any]]:
    yield from read_table(io.BytesIO(data), columns=[IMAGE])[IMAGE].to_pylist()


def needs_label(job: Job) -> bool:
    """Whether a row without a label has no place in the ranking: a target or the groups need it."""
    label = job.dataset.label
    return label is not None and (job.group_by == label or any(target.needs_label for target in job.targets))


def decide(job: Job, opened: OpenedData, model: nn.Module, storage: Storage) -> DataReading:
    """How the job's data are to be read. Raises DatasetError where labels are texts that nobody puts in an order."""
    listing = opened.listing
    given = given_classes(job, storage)
    by_origin = {GIVEN: {} if given is None else dict(enumerate(given.names)), DATA: _of_data(listing)}
    by_origin[MODEL] = class_names(model, job.model.factory, job.model.kwargs, job.model.weights) or {}
    texts = _are_texts(job, listing)
    order = (GIVEN, MODEL, DATA) if texts else (GIVEN, DATA, MODEL)
    origin = next((name for name in order if by_origin[name]), "")
    names = by_origin.get(origin, {})
    if texts and names:
        logs.say(f"labels are names, in the order of {origin}", prefix="pcace: dataset.label: ")
    if not texts:
        _warn_of_other_classes(by_origin[origin] if origin == GIVEN else by_origin[DATA], by_origin[MODEL], origin)
    return DataReading(
        names=names,
        names_from=origin,
        by_name=_by_name(job, names, given) if texts else None,
        needs_label=needs_label(job),
        partitions={name: str(kind) for name, kind in listing.partitions.items()},
        images=opened.images,
    )


def known_range(dataset: DatasetSpec, listing: Listing) -> DatasetSpec:
    """With what footers say of the labels: where every row has one, none is looked for."""
    known, labelling = listing.labels, dataset.labelling
    leave_out = labelling.leave_out and not (known is not None and known.complete)
    return replace(dataset, labelling=replace(labelling, range=known, leave_out=leave_out))


def given_classes(job: Job, storage: Storage) -> ClassNames | None:
    """The classes of `dataset.classes`: the list itself, or that of a file."""
    classes = job.dataset.classes
    if classes is None or isinstance(classes, list):
        return None if classes is None else ClassNames(tuple(classes))
    return read_class_names(absolute(classes), storage, "dataset.classes")


def _of_data(listing: Listing) -> Names:
    return dict(enumerate(listing.class_names or ()))


def _are_texts(job: Job, listing: Listing) -> bool:
    label = job.dataset.label
    texts = label is not None and is_text(listing.schema.field(label).type)
    if texts and job.dataset.label_base is not None:
        raise DatasetError(f"dataset.label_base: labels in {label!r} are names; leave the key out")
    return texts


def _by_name(job: Job, names: Names, given: ClassNames | None) -> dict[str, int] | None:
    """The class index of each name that means one class alone."""
    if not names:
        if any(target.needs_label for target in job.targets):
            raise DatasetError(
                f"dataset.label {job.dataset.label}: labels are texts, and neither the data nor the model says in "
                "which order the model has their classes; write dataset.classes: [first class, second class, ...], or "
                "a file with a line for each"
            )
        return None
    synsets = enumerate(given.synsets) if given is not None and given.synsets else ()
    return _unambiguous([*names.items(), *synsets])


def _unambiguous(pairs: Iterable[tuple[int, str]]) -> dict[str, int]:
    distinct = dict.fromkeys((name, index) for index, name in pairs)
    counts = Counter(name for name, _ in distinct)
    return {name: index for name, index in distinct if counts[name] == 1}


def _warn_of_other_classes(data: Names, model: Names, origin: str) -> None:
    """Say where labels seem to mean other outputs than those of the model."""
    reason = _in_another_order(data, model) or _are_others(data, model)
    if reason is not None:
        key = "dataset.classes" if origin == GIVEN else "dataset.label"
        logs.say(reason, prefix=f"pcace: {key}: ", level=logging.WARNING)


def _in_another_order(data: Names, model: Names) -> str | None:
    """Of the first class that the model has elsewhere: its output of that number would be taken for another one."""
    places = {name.casefold(): index for index, name in model.items()}
    for index, name in data.items():
        place = places.get(name.casefold())
        if place is not None and place != index and model.get(index, "").casefold() != name.casefold():
            return (
                f"class {index} is {name!r}, but the model's output {index} is {model.get(index)!r} and its {name!r} "
                f"is output {place}: is the order of the classes that of the model?"
            )
    return None


def _are_others(data: Names, model: Names) -> str | None:
    """Of names none of which the model has, and which are not as many: of as many, they may be other words for them."""
    ours, theirs = ({name.casefold() for name in names.values()} for names in (data, model))
    if not data or not model or len(data) == len(model) or ours & theirs:
        return None
    return (
        f"class 0 is {data.get(0)!r}, the model's output 0 is {model.get(0)!r}, and none of the {len(data):,} classes "
        f"is one of its {len(model):,}: are labels the numbers of its outputs? target: {{logit: predicted}} needs none"
    )
