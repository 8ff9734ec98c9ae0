"""The Ray actor: a worker whose control group answers `progress` and `stop` while `work` is busy."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager

import ray

from pcace_dist.imports import quick_imports
from pcace_dist.progress import logs
from pcace_dist.worker.spec import CodesSpec, WorkSpec
from pcace_dist.worker.worker import Progress, WorkerBody, WorkerInfo

log = logging.getLogger(__name__)


@ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={"control": 1})
class Worker(WorkerBody):
    """One per GPU or CPU slot."""

    @ray.method(concurrency_group="control")
    def progress(self) -> Progress:
        return super().progress()

    @ray.method(concurrency_group="control")
    def stop(self) -> None:
        super().stop()

    def imports(self) -> None:
        """What `ready` imports for a model, before it is known whether there is one: kept codes need a half of it."""
        with quick_imports():
            import pcace_dist.worker.engine  # noqa: F401

    def ready(self, spec: WorkSpec | CodesSpec) -> WorkerInfo:
        logs.configure(spec.log, run=spec.output, actor=self._name)
        return super().ready(spec)

    @staticmethod
    def _importing() -> AbstractContextManager[None]:
        return quick_imports()

    def _node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def _workers_here(self) -> int:
        here, run = self._node(), ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
        try:  # Ray has no public way to ask without its dashboard
            from ray._private.state import actors

            running = actors(job_id=run, actor_state_name="ALIVE").values()
            own = [actor["Address"]["NodeID"] for actor in running if actor["ActorClassName"] == type(self).__name__]
        except Exception as error:  # the pilot is only slower then
            log.info("workers on this node are not known: %s", error)
            return 1
        return max(1, own.count(here))
