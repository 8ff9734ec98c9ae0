"""docs/reference/outputs.md: every file of a run and every column, from where they are written."""

from __future__ import annotations

from pcace_dist.analysis.columns import COMPARISON, EVALUATION, MATCHING, SELECT
from pcace_dist.artifacts import across_groups, bad_rows, jackknife, rankings, summary, transforms
from pcace_dist.artifacts.columns import FILES, Table
from pcace_dist.artifacts.examples import EXEMPLARS_TABLE, SAMPLE_TABLE
from pcace_dist.artifacts.reading import class_names
from tests.reference import HEAD, code, table

TABLES = (
    rankings.TABLE,
    across_groups.TABLE,
    jackknife.TABLE,
    bad_rows.TABLE,
    class_names.TABLE,
    EXEMPLARS_TABLE,
    SAMPLE_TABLE,
    transforms.TABLE,
    COMPARISON,
    MATCHING,
    EVALUATION,
    SELECT,
)

PAGE = """\
# What a run leaves behind

Below `output`. The tables of a ranking are the same bits whatever workers did. [outputs.md](../outputs.md) says how
they are meant to be read.

{files}{tables}
## summary.json

{keys}"""


def page() -> str:
    files = table(["file", "is"], ([code(*names.split(", ")), text] for names, text in FILES.items()))
    keys = table(["key", "is"], ([code(key), text] for key, text in summary.KEYS.items()))
    return HEAD + PAGE.format(files=files, tables="".join(map(section, TABLES)), keys=keys)


def section(one: Table) -> str:
    columns = table(["column", "type", "is"], ([code(c.name), c.type, c.meaning] for c in one.columns))
    return f"\n## {one.file}\n\n{one.rows}\n\n{columns}"
