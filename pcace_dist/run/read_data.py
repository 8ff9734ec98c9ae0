"""Decides how a run reads its data: what labels mean, what classes are called, which folders are columns. No Ray."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import nn

from pcace_dist.artifacts.reading.data_reading import DataReading
from pcace_dist.config.job import Job
from pcace_dist.config.resolve import absolute
from pcace_dist.datasets.columns import DatasetSpec
from pcace_dist.datasets.listing import Listing
from pcace_dist.datasets.values.labels import is_text
from pcace_dist.errors import DatasetError
from pcace_dist.models.class_names import class_names
from pcace_dist.packing.class_names import ClassNames, read_class_names
from pcace_dist.progress import logs
from pcace_dist.storage.files import Storage

Names = Mapping[int, str]

GIVEN, DATA, MODEL = "dataset.classes", "the data", "the model"


def needs_label(job: Job) -> bool:
    """Whether a row without a label has no place in the ranking: a target or the groups need it."""
    label = job.dataset.label
    return label is not None and (job.group_by == label or any(target.needs_label for target in job.targets))


def decide(job: Job, listing: Listing, model: nn.Module, storage: Storage) -> DataReading:
    """How the job's data are to be read. Raises DatasetError where labels are texts that nobody puts in an order."""
    given = given_classes(job, storage)
    by_origin = {GIVEN: {} if given is None else dict(enumerate(given.names)), DATA: _of_data(listing)}
    by_origin[MODEL] = class_names(model, job.model.factory, job.model.kwargs, job.model.weights) or {}
    texts = _are_texts(job, listing)
    order = (GIVEN, MODEL, DATA) if texts else (GIVEN, DATA, MODEL)
    origin = next((name for name in order if by_origin[name]), "")
    names = by_origin.get(origin, {})
    if not texts:
        _warn_of_another_order(by_origin[origin] if origin == GIVEN else by_origin[DATA], by_origin[MODEL], origin)
    return DataReading(
        names=names,
        names_from=origin,
        by_name=_by_name(job, names, given) if texts else None,
        needs_label=needs_label(job),
        partitions={name: str(kind) for name, kind in listing.partitions.items()},
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


def _warn_of_another_order(data: Names, model: Names, origin: str) -> None:
    """Say where the model has the same names in another order: its outputs would be taken for other classes."""
    places = {name.casefold(): index for index, name in model.items()}
    for index, name in data.items():
        place = places.get(name.casefold())
        if place is not None and place != index and model.get(index, "").casefold() != name.casefold():
            logs.say(
                f"class {index} is {name!r}, but the model's output {index} is {model.get(index)!r} and its {name!r} "
                f"is output {place}: is the order of the classes that of the model?",
                prefix=f"pcace: {'dataset.classes' if origin == GIVEN else 'dataset.label'}: ",
                level=logging.WARNING,
            )
            return
