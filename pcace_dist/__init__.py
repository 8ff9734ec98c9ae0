"""pcace_dist ranks the hidden channels of vision models by their maximal correlation with the model's output.

The public surface, imported when first used so that `import pcace_dist` stays light:

    rank_model(model, data)    rank a torch.nn.Module over (image, label) rows in memory; a finished Run
    rank(job)                  run or resume a job (a path, a mapping or a Job); a finished Run
    open_run(path)             a finished run: .ranking(), .to_pandas(), .bad_rows(), .summary
    report(run)                write the page of a finished run
    compare(run, other)        what moved between two finished runs
    evaluate(run)              ablation curves: does the ranking find what matters to the model?
    select(run)                the fewest channels that carry or tell most of the output; masks for pruning
    explain(run, image)        one image: which of the ranked channels fired on it, and what each contributed
    export(run, to)            a finished run as CSV or JSON files, in MLflow or wandb, as a FiftyOne dataset
    load_job(path)             a job file as a checked Job
    check(job)                 what can be wrong with a job, before it runs
    layers(model)              what there is to rank in a torch.nn.Module, with the globs that select it
    maximal_correlation(...)   the statistic alone, on tensors in memory, without Ray
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcace_dist.api import (
        check,
        compare,
        evaluate,
        explain,
        export,
        layers,
        load_job,
        rank,
        rank_model,
        report,
        select,
    )
    from pcace_dist.artifacts.run import Run, open_run
    from pcace_dist.config.job import Job
    from pcace_dist.statistics.maximal import maximal_correlation

__version__ = "0.2.0"

_HOME = {
    "Job": "pcace_dist.config.job",
    "Run": "pcace_dist.artifacts.run",
    "check": "pcace_dist.api",
    "compare": "pcace_dist.api",
    "evaluate": "pcace_dist.api",
    "explain": "pcace_dist.api",
    "export": "pcace_dist.api",
    "layers": "pcace_dist.api",
    "load_job": "pcace_dist.api",
    "maximal_correlation": "pcace_dist.statistics.maximal",
    "open_run": "pcace_dist.artifacts.run",
    "rank": "pcace_dist.api",
    "rank_model": "pcace_dist.api",
    "report": "pcace_dist.api",
    "select": "pcace_dist.api",
}

__all__ = [
    "Job",
    "Run",
    "__version__",
    "check",
    "compare",
    "evaluate",
    "explain",
    "export",
    "layers",
    "load_job",
    "maximal_correlation",
    "open_run",
    "rank",
    "rank_model",
    "report",
    "select",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
