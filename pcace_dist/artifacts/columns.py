"""What the columns of a table are: said beside the code that writes it, shown in docs/reference/outputs.md.

`tests/reference/test_outputs.py` holds every `Table` to the files of a run: names, order and types.
"""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

GROUP = "as group_by"  # the type of a column that holds groups


class Column(NamedTuple):
    """A column: its name, its type (string, int32, float64, list of float32, ... or GROUP), and what it holds.

    A name with `<layer>` stands for one column per layer."""

    name: str
    type: str
    meaning: str


class Table(NamedTuple):
    """A Parquet file of a run: its name below the output, what a row is, its columns in order."""

    file: str
    rows: str
    columns: tuple[Column, ...]

    def schema(self, group: pa.DataType) -> pa.Schema:
        """Its Arrow schema, with this type for the groups; for tables without columns of lists."""
        types = {
            column.name: group if column.type == GROUP else pa.type_for_alias(column.type) for column in self.columns
        }
        return pa.schema(types.items())


TARGET = Column(
    "target",
    "string",
    "the target's name (docs/models.md): `logit:label`, `logit:3-5`, `output:3:mean`, `column:no2`",
)
OF_GROUP = Column("group", GROUP, "the value of `group_by`; null without one")
LAYER = Column("layer", "string", "name of the module in the model")
CHANNEL = Column("channel", "int32", "number of the channel in its layer, from 0")
FILE = Column("file", "string", "file of the image, as a path below the listed root")
ROW_GROUP = Column("row_group", "int32", "row group in the file, from 0")
ROW = Column("row", "int64", "row in the file, from 0")
KEYS = (TARGET, OF_GROUP, LAYER, CHANNEL)
PLACE = (FILE, ROW_GROUP, ROW)

FILES = {
    "rankings.parquet": "the result",
    "rankings_across_groups.parquet": "what the groups' rankings have in common",
    "jackknife.parquet": "the pseudo-values behind the scores, from which `compare` takes its noise",
    "exemplars.parquet": "the images that excite each channel most, for the report",
    "sample.parquet": "a sample of all images with their codes, for the report and `compare --match`",
    "transforms.parquet": "theta and phi of the score's definition, for the report",
    "bad_rows.parquet": "rows that were set aside, with the reason",
    "classes.parquet": "names of the classes, where the job, the data or the model has them",
    "summary.json": "what was run, how fast and on what (below)",
    "job.yaml": "the resolved job: every key with its value, also those that the job file leaves out",
    "report.html": "one self-contained page, by `pcace report`",
    "report.pdf": "all its views printed, by `pcace report --pdf`",
    "comparison.json, comparison.parquet, matching.parquet": "by `pcace compare`, in RUN_B",
    "evaluation.json, evaluation.parquet, evaluation-*.svg": "by `pcace evaluate`",
    "select.json, select.parquet": "by `pcace select`",
    "select/codes/*": "by `pcace select` for a run that kept no codes: its job once more, with them",
    "plan/*.safetensors": "the frozen plan: axes, knots, and rows that check each worker",
    "ledger/*.json": "what has happened, a numbered record each; `done` has the digests of the published files",
    "attempts/*/*": "what workers have accumulated, one folder for each flush; resuming and `extend` read them",
    "codes/index.json": "with `statistics.keep_codes`: which files in attempts/ hold the codes",
    "data/*.parquet": "only where dataset.path is a folder of images or a CSV: the list of its images",
    "lease.json": "who holds the run, while somebody does",
}
"""Files of a run below its output, and what they are for."""
