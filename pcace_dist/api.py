"""The verbs from Python, for notebooks and scripts: they take and return objects and print no results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcace_dist.artifacts.run import Run, open_run
from pcace_dist.config.job import Job, load_job_file, parse_job
from pcace_dist.config.targets import parse_target
from pcace_dist.errors import PcaceError

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import Dataset

    from pcace_dist.analysis.compare import Comparison
    from pcace_dist.commands.check.check import Checked
    from pcace_dist.commands.evaluate import Evaluation
    from pcace_dist.commands.explain.explained import Explained
    from pcace_dist.commands.export.export import Exported
    from pcace_dist.commands.select.sets import Selected
    from pcace_dist.models.listing.found import Layers
    from pcace_dist.reporting.build import ReportResult


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> Job:
    """Read and check a job file. `overrides` are "key.path=value" strings. Raises JobError."""
    return load_job_file(str(path), overrides)


def rank(job: str | Path | Mapping[str, Any] | Job, *, overrides: Sequence[str] = ()) -> Run:
    """Run or resume a job and return the finished run.

    `job` is the path of a job file, a mapping with the same keys, or a Job. A run with more bad rows than max_bad_rows
    is finished too: its `summary["exit_code"]` is 4. Raises UserError for a wrong job or input, Stopped when
    interrupted (call again to continue).
    """
    from pcace_dist.config.resolve import storage_of
    from pcace_dist.run.rank import run_job

    if isinstance(job, str | Path):
        job = load_job(job, overrides)
    elif isinstance(job, Mapping):
        job = parse_job(job)
    code = run_job(job)
    if code not in (0, 4):
        raise PcaceError(f"{job.output}: the run ended with exit code {code}")
    return open_run(job.output, storage=storage_of(job))


def rank_model(
    model: nn.Module,
    dataset: Iterable[Any] | Dataset[Any],
    *,
    layers: str | Sequence[Any],
    target: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    input: Mapping[str, Any] | str | None = None,
    output: str | Path | None = None,
    classes: Sequence[str] | None = None,
    **keys: Any,
) -> Run:
    """Rank the channels of a model in memory over (image, label) rows in memory, and return the finished run.

    The model is used as it is, in eval mode; what is changed is a copy. It must be one that `copy.deepcopy` copies.

    dataset: any iterable, Dataset or DataLoader of (image, label), or of batches of them; read once, and it may be
    larger than memory. The rows are stored in `stored-rows` beside the run. Images are float tensors (C, H, W) of one
    size, as the model takes them; with `input`, PIL images, uint8 arrays (H, W, C) or uint8 tensors (C, H, W). Labels
    are classes (int or str), numbers (float), or None.
    layers, target: as in a job file. The target is {"logit": "label"} for classes and {"column": "value"} for numbers,
    unless it is given.
    input: what the model takes, as `model.input` of a job file, or "auto".
    output: the folder of the run; None: a temporary one, which Python removes when it ends.
    classes: names of the classes; else those of the data set, where it has a list `classes`.
    keys: further sections of the job file, such as group_by="label" or statistics={"components": 3}.

    The work is done in this process: the same statistic, and the same bits, as a job over the same rows. Raises
    UserError where model, rows or keys are wrong, Stopped when interrupted (call again to continue, with `output`).
    """
    from pcace_dist.commands.rank_model import rank_model as ranked
    from pcace_dist.config.resolve import storage_of

    given = None if output is None else str(output)
    job = ranked(model, dataset, layers=layers, target=target, input=input, output=given, classes=classes, **keys)
    return open_run(job.output, storage=storage_of(job))


def layers(model: nn.Module, *, size: int | tuple[int, int] | None = None) -> Layers:
    """What there is to rank in a model: `.layers`, each with the glob that selects it and others like it.

    size: side or (height, width) of the images that the sizes of maps belong to; where it is not given that of the
    model's own preprocessing, else a guess. Raises ModelError where the model does not take such images.
    """
    from pcace_dist.commands.layers import layers_in_memory

    return layers_in_memory(model, size)


def check(job: str | Path | Mapping[str, Any] | Job, *, images: int = 200, out: str | Path | None = None) -> Checked:
    """What can be wrong with a job, as `pcace check` finds it: `.findings`, errors first, and `.figures`.

    job: the path of a job file, its keys, or a Job. images: how many are looked at. out: a folder for the contact
    sheet, whose path is `.sheet`. Raises JobError where the file cannot be read.
    """
    from pcace_dist.commands.check.check import check as checked

    given = job.model_dump(mode="json", exclude_unset=True) if isinstance(job, Job) else job
    return checked(
        str(given) if isinstance(given, Path) else given, images=images, out=None if out is None else str(out)
    )


def compare(earlier: Run | str, later: Run | str, **settings: Any) -> Comparison:
    """What moved between two finished runs: `.verdict` (same, moved, not comparable), `.agreement`, `.channels`.

    settings: as `analysis.compare.ComparisonSettings` has them, such as top=20, group=3, tolerance=0.01. Nothing is
    written. Raises UserError where one of them is no finished run.
    """
    from pcace_dist.analysis.compare import ComparisonSettings, compare_runs

    return compare_runs(_opened(earlier), _opened(later), ComparisonSettings(**settings))


def evaluate(run: Run | str, **settings: Any) -> Evaluation:
    """Ablation curves of a finished run, as `pcace evaluate` measures them: `.curves`, `.to_json()`.

    settings: as `commands.evaluate.EvaluationSettings` has them, such as layers="conv2", group=3, draws=20. A `watch`
    is written as a target, for example {"output": 0}. Nothing is written. Raises UserError, Stopped.
    """
    from pcace_dist.commands.evaluate import EvaluationSettings
    from pcace_dist.commands.evaluate import evaluate as evaluated

    if isinstance(settings.get("watch"), Mapping):
        settings["watch"] = parse_target(settings["watch"])
    return evaluated(_opened(run), EvaluationSettings(**settings))


def select(run: Run | str, *, folder: str | Path | None = None, **settings: Any) -> Selected:
    """The fewest channels found that carry or tell most of the output, as `pcace select` finds them: `.sets`, `.masks`
    (what to keep and what to prune), `.table()`, `.to_json()`.

    settings: as `commands.select.sets.SelectSettings` has them, such as by="score", share=0.9, layers="conv2". A run
    that kept no codes is read once more, with the codes kept below `folder` (None: the run's); nothing else is written.
    Raises UserError, Stopped.
    """
    from pcace_dist.commands.select.select import select as selected
    from pcace_dist.commands.select.sets import SelectSettings

    opened = _opened(run)
    return selected(opened, SelectSettings(**settings), folder=opened.path if folder is None else str(folder))


def explain(run: Run | str, image: str | Path, **settings: Any) -> Explained:
    """What the ranked channels do with one image: `.channels`, `.layers`, `.outputs`, `.to_json()`.

    image: a file, local or s3://, or the id of a row of the run's data. settings: as
    `commands.explain.explain.ExplainSettings` has them, such as group=3, target="logit:label", top=50. Nothing is
    written; `commands.explain.page.page` makes the HTML page. Raises UserError.
    """
    from pcace_dist.commands.explain.explain import ExplainSettings
    from pcace_dist.commands.explain.explain import explain as explained

    return explained(_opened(run), str(image), ExplainSettings(**settings))


def export(run: Run | str, to: str, **settings: Any) -> Exported:
    """A finished run in other people's formats: `.place` says where, `.written` what, `.known` whether it was there.

    to: csv, json, mlflow, wandb or fiftyone. settings: as `commands.export.export.ExportSettings` has them, such as
    out="tables", experiment="channels". Needs the extra `mlflow` or `wandb` for these. Raises UserError.
    """
    from pcace_dist.commands.export.export import ExportSettings
    from pcace_dist.commands.export.export import export as exported

    return exported(_opened(run), ExportSettings(to, **settings))


def report(run: Run | str, **options: Any) -> ReportResult:
    """Write the page of a finished run: `.path` says where, `.notes` what it does not show.

    options: as `reporting.options.ReportOptions` has them, such as output="page.html", top=10, synthesis=False. Needs
    the extra `report`. Raises UserError.
    """
    from pcace_dist.reporting.build import build_report
    from pcace_dist.reporting.options import ReportOptions

    return build_report(_opened(run).path, ReportOptions(**options))


def _opened(run: Run | str) -> Run:
    return run if isinstance(run, Run) else open_run(run)
