"""The Ray actor: a worker whose control group answers `progress` and `stop` while `work` is busy."""

from __future__ import annotations

import ray

from pcace_dist.imports import quick_imports
from pcace_dist.progress import logs
from pcace_dist.worker.spec import CodesSpec, WorkSpec
from pcace_dist.worker.worker import Progress, WorkerBody, WorkerInfo


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
        """The largest part of what `ready` imports, before there is a job."""
        with quick_imports():
            import torch  # noqa: F401

    def ready(self, spec: WorkSpec | CodesSpec) -> WorkerInfo:
        logs.configure(spec.log, run=spec.output, actor=self._name)
        with quick_imports():  # not around more: what the block leaves behind stays for good
            if isinstance(spec, CodesSpec):
                import pcace_dist.worker.codes_engine
            else:
                import pcace_dist.worker.engine  # noqa: F401
        return super().ready(spec)

    def _node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())
