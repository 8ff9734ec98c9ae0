"""What the figures of a full run are to be: every goal once, and whether it is met.

A goal belongs to a figure of a question, for all cases that its pattern names. Quick runs have none: they are small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tests.benchmarks.harness import Answer, Judged, Spread, Value, number


@dataclass(frozen=True)
class Goal:
    """`bound` of a figure: the least it may be, or the most."""

    case: str
    figure: str
    bound: float
    most: bool = False

    def verdict(self, value: float) -> str:
        """met, or by how much of the bound it is not."""
        missing = (value - self.bound if self.most else self.bound - value) / self.bound
        return "met" if missing <= 0 else f"{'over' if self.most else 'short'} by {max(missing, 0.001):.1%}"

    def __str__(self) -> str:
        return f"{'at most' if self.most else 'at least'} {number(self.bound)}"


def least(case: str, figure: str, bound: float) -> Goal:
    return Goal(case, figure, bound)


def most(case: str, figure: str, bound: float) -> Goal:
    return Goal(case, figure, bound, most=True)


GOALS: Mapping[str, tuple[Goal, ...]] = {
    "main_pass": (
        least("ResNet-18, 1 layer, bfloat16*", "of the limit", 0.95),
        least("ResNet-18, 1 layer, float32*", "of the limit", 0.97),
        least("ResNet-18, all 20, bfloat16*", "of the limit", 0.88),
        least("ResNet-18, all 20, float32*", "of the limit", 0.93),
        least("ResNet-50, 1 layer, bfloat16*", "of the limit", 0.97),
        least("ResNet-50, all 53, bfloat16*", "of the limit", 0.85),
        least("MNIST CNN*", "of the limit", 0.95),
    ),
    "decode": (least("photographs*", "of bare", 0.95), least("28 x 28 PNG", "of bare", 0.95)),
    "published": (
        least("pcace_dist, the job, without Ray", "times faster", 2000),
        least("pcace_dist, the command, without Ray", "times faster", 1200),
        least("pcace_dist, the job on a running Ray", "times faster", 1200),
        least("pcace_dist, the command, with Ray", "times faster", 500),
    ),
    "start": (
        most("imports without Ray", "seconds", 2.0),
        most("without Ray, beyond imports", "seconds", 1.0),
        most("with Ray, beyond imports and its start", "seconds", 2.0),
    ),
    "memory": (
        most("*1 layer", "20,000 / 2,000", 1.03),
        most("*all 20", "20,000 / 2,000", 1.10),
    ),
    "effects": (
        most("mean: *1 layer", "with / without", 1.10),
        most("mean: *all 20", "with / without", 1.25),
        most("image: *", "image / by hand", 1.20),
    ),
    "solve": (most("2 processes", "seconds", 10.0),),
    "codes_scale": (most("groups 1000", "reduce and rank, s", 180.0), most("groups 1000", "peak_of_all MiB", 2384.0)),
    "groups": (least("command: model / codes", "value", 15.0),),
    "driver": (
        most("*", "driver, of a core", 0.5),
        most("*", "puts/s at most", 3500),  # of S3, for a prefix; so are the gets
        most("*", "gets/s at most", 5500),
    ),
}


def judged(question: str, answer: Answer) -> Iterator[Judged]:
    """Every figure of an answer that has a goal."""
    for goal in GOALS.get(question, ()):
        for case, line in answer.lines.items():
            value = _number(line.get(goal.figure)) if fnmatchcase(case, goal.case) else None
            if value is not None:
                yield Judged(case, goal.figure, value, str(goal), goal.verdict(value))


def _number(value: Value) -> float | None:
    if isinstance(value, Spread):
        return value.median
    return None if value is None or isinstance(value, str) else float(value)
