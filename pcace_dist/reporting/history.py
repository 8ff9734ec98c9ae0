"""The run among those of its schedule: what was published before it, and how the scores of its best channels went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pcace_dist.analysis.history import Entry, read_history
from pcace_dist.artifacts.rankings import RANKINGS
from pcace_dist.artifacts.run import Run, open_run
from pcace_dist.reporting.findings import ChannelKey, RankingKey
from pcace_dist.reporting.page import numbers
from pcace_dist.reporting.source import Ranking, ReportSource
from pcace_dist.storage.files import normalised

FOLDER = "/runs/"  # of a schedule's runs, below its output
BEST = 8  # channels of each ranking whose scores are shown over time
RUNS = 20  # the latest ones whose scores are read
COLUMNS = ["target", "group", "layer", "channel", "score"]
SHOWN = ("run", "published", "why", "images", "verdict", "kendall", "overlap", "moved", "judged", "drift")


@dataclass(frozen=True)
class Past:
    """output: of the schedule; entries: what it published, up to this run, oldest first; kept: the runs of these that
    are still there; current: this run's folder below the output."""

    output: str
    entries: tuple[Entry, ...]
    kept: frozenset[str]
    current: str

    @property
    def predecessor(self) -> str | None:
        """The path of the last run before this one that is kept."""
        before = [entry.run for entry in self.entries if entry.run in self.kept and entry.run != self.current]
        return f"{self.output}/{before[-1]}" if before else None


def past_of(run: Run) -> Past | None:
    """None for a run that no schedule has published. Raises UserError for a history that cannot be read."""
    output, _, name = normalised(run.path).rstrip("/").rpartition(FOLDER)
    if not output or run.storage.stat(f"{output}/latest.json") is None:
        return None
    history, current = read_history(output, run.storage), f"{FOLDER[1:]}{name}"
    numbers_of_run = [i for i, entry in enumerate(history.entries) if entry.run == current]
    if not numbers_of_run:
        return None
    return Past(output, history.entries[: numbers_of_run[-1] + 1], history.kept, current)


def history_of(source: ReportSource, groups: Sequence[int], past: Past | None) -> dict[str, Any] | None:
    """What the page shows; None where the run has no predecessor.

    runs: the published ones, oldest first. scores: for each target and group its best channels, with the score of each
    in every run of `of` (null where it has none).
    """
    if past is None or len(past.entries) < 2:
        return None
    last = {entry.run: i for i, entry in enumerate(past.entries) if entry.run in past.kept or entry.run == past.current}
    read = sorted(last.values())[-RUNS:]
    best = dict(_best(source.ranking, groups))
    tables = [_scores(past, past.entries[i].run, source, best) for i in read]
    return {
        "output": past.output,
        "runs": [{name: asdict(entry)[name] for name in SHOWN} for entry in past.entries],
        "of": read,
        "scores": [
            {
                "target": target,
                "group": list(groups).index(group),
                "channels": [f"{layer}/{channel}" for layer, channel in channels],
                "scores": [_over_time(tables, _key(source.ranking, target, group), channel) for channel in channels],
            }
            for (target, group), channels in best.items()
        ],
    }


def _best(ranking: Ranking, groups: Sequence[int]) -> Iterator[tuple[RankingKey, list[ChannelKey]]]:
    names = [(layer, channel) for layer, count in ranking.layers for channel in range(count)]
    for target in range(len(ranking.targets)):
        for group in groups:
            rank = ranking.numbers(target, group, "rank")
            ranked = [int(i) for i in np.argsort(rank, kind="stable")[:BEST] if np.isfinite(rank[i])]  # NaN goes last
            yield (target, group), [names[i] for i in ranked]


def _key(ranking: Ranking, target: int, group: int) -> tuple[str, str]:
    return ranking.targets[target], str(ranking.groups[group])


Scores = dict[tuple[str, str, str, int], float]  # by target, group, layer, channel


def _scores(past: Past, run: str, source: ReportSource, best: Mapping[RankingKey, list[ChannelKey]]) -> Scores:
    """Of the best channels of any target and group, in one run."""
    layers, channels = ({key[i] for keys in best.values() for key in keys} for i in range(2))
    if not layers:
        return {}
    opened = open_run(f"{past.output}/{run}", storage=source.run.storage)
    table = opened.table(RANKINGS, columns=COLUMNS, filters=[("layer", "in", layers), ("channel", "in", channels)])
    rows = zip(*(table[name].to_pylist() for name in COLUMNS), strict=True)
    return {(target, str(group), *channel): score for target, group, *channel, score in rows if score is not None}


def _over_time(tables: Sequence[Scores], block: tuple[str, str], channel: ChannelKey) -> list[Any]:
    return numbers([table.get((*block, *channel), float("nan")) for table in tables], 4)
