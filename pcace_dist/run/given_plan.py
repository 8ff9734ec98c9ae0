"""A job with `statistics.plan`: the settings are those of another run's plan."""

from __future__ import annotations

from dataclasses import replace

from pcace_dist.artifacts.plan_metadata import PlanMetadata
from pcace_dist.artifacts.plan_store import plan_of_run
from pcace_dist.config.job import Job
from pcace_dist.config.resolve import absolute
from pcace_dist.errors import JobError
from pcace_dist.worker.spec import WorkSpec


def with_given_plan(job: Job, spec: WorkSpec, layers: tuple[str, ...]) -> WorkSpec:
    """The spec with the plan's settings. Raises JobError where the job says something else."""
    url = absolute(str(job.statistics.plan))
    plan = plan_of_run(url, spec.storage)
    if job.extend is not None:
        raise JobError("statistics.plan: a run that extends another has that run's plan; leave one of the keys out")
    held = {"layers": [layer.name for layer in plan.layers], "target": [target.name for target in plan.targets]}
    for key, asked in (("layers", layers), ("target", [target.name for target in spec.targets])):
        for name in asked:
            if name not in held[key]:
                raise JobError(f"{key} {name}: is not in the plan of {job.statistics.plan} ({', '.join(held[key])})")
    settings = {name: getattr(plan, name) for name in ("components", "knots", "folds", "scale")}
    for name, value in settings.items():
        if name in job.statistics.model_fields_set and getattr(job.statistics, name) != value:
            raise JobError(
                f"statistics.{name} {getattr(job.statistics, name)}: the plan of {job.statistics.plan} has {value}; "
                "leave one of the keys out"
            )
    batch = PlanMetadata.of(plan).batch
    if job.compute.batch not in ("auto", batch):
        raise JobError(f"compute.batch {job.compute.batch}: the plan of {job.statistics.plan} has {batch}; use auto")
    precision = PlanMetadata.of(plan).precision
    if job.compute.precision not in ("auto", precision):
        raise JobError(
            f"compute.precision {job.compute.precision}: the plan of {job.statistics.plan} has {precision}; use auto"
        )
    decode = PlanMetadata.of(plan).decode
    if job.model.input.decode not in ("auto", decode):
        raise JobError(
            f"model.input.decode {job.model.input.decode}: the plan of {job.statistics.plan} has {decode}; use auto"
        )
    if decode == "gpu" and job.workers.gpus == 0:
        raise JobError(f"workers.gpus 0: the plan of {job.statistics.plan} decodes on GPUs; set workers.gpus: 1")
    return replace(
        spec,
        plan=url,
        statistics=job.statistics.model_copy(update=settings),
        compute=job.compute.model_copy(update={"batch": batch}),
    )
