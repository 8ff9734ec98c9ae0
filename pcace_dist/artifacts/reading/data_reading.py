"""How a run reads its data: decided when it begins, kept in its manifest (`reading`), the same from then on.

Version 0.1.0 had no such record: its labels are class indices, its folders no columns, and every row counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pcace_dist.datasets.values.image_files import IMAGE, root_of
from pcace_dist.datasets.values.labels import Labelling
from pcace_dist.errors import OutputError

if TYPE_CHECKING:
    from pcace_dist.datasets.columns import DatasetSpec

KEY = "reading"
IMAGE_LISTS = "data"  # folder of a run
IMAGE_LIST = rf"{IMAGE_LISTS}/[0-9a-f]{{32}}\.parquet"
TYPES = {str(kind): kind for kind in (pa.int64(), pa.string())}  # of folders


@dataclass(frozen=True)
class ImageList:
    """Where dataset.path is a folder of images or a CSV: the list of them that the run reads (packing/image_index.py),
    its name below the run, and the column that names each row, if there is one."""

    name: str
    id: str | None


@dataclass(frozen=True)
class DataReading:
    """names: of classes, by index. names_from: who says so. by_name: the class index of each label, where labels are
    texts. needs_label: rows without one are left out. partitions: types of the columns that folders name. images: where
    images are files of their own."""

    names: Mapping[int, str] = field(default_factory=dict)
    names_from: str = ""
    by_name: Mapping[str, int] | None = None
    needs_label: bool = False
    partitions: Mapping[str, str] = field(default_factory=dict)
    images: ImageList | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "class_names": [[index, name] for index, name in sorted(self.names.items())],
            "class_names_from": self.names_from,
            "by_name": None if self.by_name is None else dict(self.by_name),
            "needs_label": self.needs_label,
            "partitions": dict(self.partitions),
            "images": None if self.images is None else asdict(self.images),
        }

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> DataReading:
        """What a manifest says."""
        said = manifest.get(KEY)
        if said is None:
            return cls()
        by_name = said["by_name"]
        return cls(
            names={int(index): str(name) for index, name in said["class_names"]},
            names_from=str(said["class_names_from"]),
            by_name=None if by_name is None else {str(name): int(index) for name, index in by_name.items()},
            needs_label=bool(said["needs_label"]),
            partitions={str(name): str(kind) for name, kind in said["partitions"].items()},
            images=None if said["images"] is None else ImageList(**said["images"]),
        )

    def continued(self, manifest: Mapping[str, Any]) -> DataReading:
        """The reading of a run that has begun. Raises OutputError where labels are texts and their names, which are
        only shown otherwise, are others by now."""
        begun = DataReading.of(manifest)
        if begun.by_name is not None and self.by_name != begun.by_name:
            raise OutputError(
                f"dataset.classes: the names of the classes, from {self.names_from or 'nowhere'}, are others than when "
                "the run began; use another output"
            )
        if KEY not in manifest:
            begun = replace(begun, names=self.names, names_from=self.names_from)
        return replace(begun, images=self.images)

    def applied(self, dataset: DatasetSpec, run: str) -> DatasetSpec:
        """The data set, read so by the run at this path."""
        labelling = Labelling(
            by_name=self.by_name,
            origin=self.names_from,
            base=dataset.label_base,
            needed=self.needs_label,
            leave_out=self.needs_label,
        )
        types = {name: TYPES[kind] for name, kind in self.partitions.items()}
        dataset = replace(dataset, labelling=labelling, partitions=types)
        return dataset if self.images is None else of_images(dataset, self.images, run)


def of_images(dataset: DatasetSpec, images: ImageList, run: str) -> DatasetSpec:
    """The data set whose path is a folder of images or a CSV, by the list of its images that the run at `run` has."""
    url, below = f"{run.rstrip('/')}/{images.name}", root_of(dataset.path[0])
    return replace(dataset, path=[url], image=IMAGE, id=dataset.id or images.id, images_below=below)
