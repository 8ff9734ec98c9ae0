"""Where the time of a run went, and what would help. Pure arithmetic on seconds; no I/O, no Ray.

Two clocks. The driver's stages follow each other: prepare (imports, listing, model), ray, start (of workers), pilot,
main_pass, reduce, rank, publish. Within the main pass
every worker is always in exactly one of ON_WORKER, so these add up to the workers' seconds. `read` and `decode` run in
threads beside them; `wait` is the part of their time that the model had to wait for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ON_WORKER = ("begin", "wait", "forward", "tap", "statistics", "flush", "idle")
IN_THREADS = ("read", "decode")
IN_REDUCE = ("sums", "solve")

HELPS = {
    "prepare": "longer runs spread it over more images; fewer and larger files list faster",
    "ray": "a cluster that is up already (RAY_ADDRESS)",
    "copy": "storage for the output that is nearer to the driver",
    "start": "a cluster that is up already starts faster; longer runs spread it over more images",
    "pilot": "more CPUs per worker (workers.cpus: one worker makes it), a smaller statistics.pilot, fewer layers; "
    "statistics.plan takes over the plan of another run",
    "sums": "storage for the output that is nearer to the workers, or more workers",
    "solve": "more workers, fewer groups, targets or layers",
    "rank": "fewer groups, targets or layers",
    "publish": "storage for the output that is nearer to the driver",
    "begin": "longer runs spread the workers' first steps over more images",
    "read": "storage nearer to the workers, row groups of about 16 MiB (pcace pack writes such)",
    "decode": "more CPUs per worker (workers.cpus), images packed smaller",
    "forward": "more workers",
    "tap": "fewer layers",
    "statistics": "fewer layers, targets or groups",
    "flush": "storage for the output that is nearer to the workers, PCACE_FLUSH_SECONDS larger",
    "idle": "fewer workers, or more images: there are too few units for so many",
}
QUICK_SECONDS = 60.0  # a run that is over in this time needs no advice
MUCH = 0.3  # the least share of a run that is worth advice
LEAST_SHARE = 0.02  # shares below are not named

FASTER_ARITHMETIC = "compute.precision bfloat16 on processors with AMX or AVX512_BF16, or on a GPU"
ON_GPU = "model.input.decode gpu, as another job"
FEWER_KNOTS = "statistics.knots 9"
LARGER_BATCH = "a larger compute.batch"


@dataclass(frozen=True)
class ComputeSettings:
    """What the advice depends on. `cpu`: the model runs on the cores that also decode; `decode`: what decodes;
    `knots`: of the plan."""

    cpu: bool = True
    precision: str = "float32"
    batch: int = 0
    decode: str = "cpu"
    knots: int = 9


@dataclass(frozen=True)
class Bottleneck:
    """The stage that takes most, its share of the run (0 to 1), and what would shorten it."""

    stage: str
    share: float
    advice: str


def on_worker(stages: Mapping[str, float], worker_seconds: float) -> dict[str, float]:
    """Seconds of a main pass by stage, in the order of a unit's way; `idle` is what is left of `worker_seconds`."""
    measured = {stage: stages.get(stage, 0.0) for stage in ON_WORKER if stage != "idle"}
    beside = {stage: stages.get(stage, 0.0) for stage in IN_THREADS}
    return beside | measured | {"idle": max(0.0, worker_seconds - sum(measured.values()))}


def stage_shares(driver: Mapping[str, float], workers: Mapping[str, float]) -> dict[str, float]:
    """Share of the whole run by stage: the main pass split as the workers spent it, the reduce as its tasks did.

    The stages in threads are left out, as they take no time of their own; the shares add up to 1.
    """
    total = sum(driver.values())
    if total <= 0:
        return {}
    by_stage = {stage: seconds / total for stage, seconds in driver.items() if stage not in ("main_pass", "reduce")}
    for stage, parts in (("main_pass", ON_WORKER), ("reduce", IN_REDUCE)):
        seconds = driver.get(stage, 0.0)
        inside = {part: workers.get(part, 0.0) for part in parts}
        whole = sum(inside.values())
        if whole > 0:
            by_stage |= {part: value / whole * seconds / total for part, value in inside.items()}
        elif seconds:
            by_stage[stage] = seconds / total
    return by_stage


def find_bottleneck(
    driver: Mapping[str, float], workers: Mapping[str, float], compute: ComputeSettings
) -> Bottleneck | None:
    """The stage that takes most and what would help; None before anything was done."""
    by_stage = stage_shares(driver, workers)
    if not by_stage or max(by_stage.values()) <= 0:
        return None
    by_stage = _by_cause(by_stage, workers, compute)
    stage = max(by_stage, key=lambda name: by_stage[name])
    return Bottleneck(stage, by_stage[stage], _advice(stage, compute))


def _by_cause(
    by_stage: Mapping[str, float], workers: Mapping[str, float], compute: ComputeSettings
) -> dict[str, float]:
    """Shares with `wait` replaced by what the model waited for: reading or decoding.

    Where the model runs on the cores that decode, decoding costs its own time too, waited for or not; it is then
    weighed by its seconds against those of the forward pass.
    """
    causes = {stage: share for stage, share in by_stage.items() if stage != "wait"}
    read, decode = workers.get("read", 0.0), workers.get("decode", 0.0)
    cause = "decode" if decode >= read else "read"
    causes[cause] = by_stage.get("wait", 0.0)
    forward = workers.get("forward", 0.0)
    if compute.cpu and forward > 0 and decode > forward:
        causes["decode"] = max(causes.get("decode", 0.0), min(1.0, by_stage.get("forward", 0.0) * decode / forward))
    return causes


def _advice(stage: str, compute: ComputeSettings) -> str:
    parts = [HELPS[stage]] if stage in HELPS else []
    if stage == "forward":
        parts += ["a GPU"] if compute.cpu else ["a faster GPU"]
        parts += [FASTER_ARITHMETIC] if compute.precision == "float32" else []
        parts += [LARGER_BATCH] if not compute.cpu else []
    if stage == "solve" and compute.knots > 9:
        parts.append(FEWER_KNOTS)
    if stage == "decode" and not compute.cpu and compute.decode == "cpu":
        parts.append(ON_GPU)
    return ", ".join(parts)


def describe_time(summary: Mapping[str, Any]) -> list[str]:
    """Lines for people from a summary.json: shares, the largest first, and what would help where one stage takes much.

    Empty if the summary has none, and for runs of under a minute.
    """
    by_share = sorted((summary.get("shares") or {}).items(), key=lambda item: -float(item[1]))
    parts = [f"{stage} {100 * share:.0f} %" for stage, share in by_share if share >= LEAST_SHARE]
    bottleneck = summary.get("bottleneck")
    if not parts or not bottleneck or float(summary.get("seconds") or 0.0) < QUICK_SECONDS:
        return []
    if float(bottleneck["share"]) < MUCH or not bottleneck["advice"]:
        return [", ".join(parts)]
    share = f"{100 * float(bottleneck['share']):.0f} %"
    return [", ".join(parts), f"{bottleneck['stage']} takes most ({share}); what would help: {bottleneck['advice']}"]
