"""docs/reference/exit-codes.md: the exit codes, and the exceptions of Python that become them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

from pcace_dist.cli.parser import EXIT_CODES
from pcace_dist.errors import PcaceError
from tests.reference import HEAD, code, table

ELSEWHERE = ("ledger.records", "worker.admission", "storage.store", "artifacts.checked", "commands.schedule")
"""Modules with exceptions of their own."""


PAGE = """\
# Exit codes

{codes}
`--ok 3,4` turns codes into 0, for schedulers; `summary.json` keeps `outcome` and `exit_code`. A finished run that is
asked for again returns its recorded code at once. `ray job submit` reports every code but 0 as 1.

## In Python

What this package raises on purpose is a `PcaceError`; `rank(job)` returns the run where the command ends with 0 or 4.

{raised}"""


def page() -> str:
    codes = table(["code", "means"], ([str(number), text] for number, text in EXIT_CODES.items()))
    rows = ([code(kind.__name__), str(kind.exit_code), first_paragraph(kind)] for kind in kinds())
    return HEAD + PAGE.format(codes=codes, raised=table(["exception", "code", "means"], rows))


def first_paragraph(kind: type) -> str:
    return str(kind.__doc__).split("\n\n")[0].replace("\n", " ")


def kinds() -> list[type[PcaceError]]:
    """PcaceError and all that are one, the base first, then by name."""
    for module in ELSEWHERE:
        import_module(f"pcace_dist.{module}")
    return [PcaceError, *sorted(below(PcaceError), key=lambda kind: kind.__name__)]


def below(kind: type[PcaceError]) -> Iterator[type[PcaceError]]:
    for one in kind.__subclasses__():
        if one.__module__.startswith("pcace_dist."):
            yield one
            yield from below(one)
