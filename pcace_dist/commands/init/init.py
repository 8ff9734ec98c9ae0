"""`pcace init`: look at a model and a data set, and write the job that ranks the one on the other."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pcace_dist.commands.init import text
from pcace_dist.commands.init.data import DataLook, look_at_data
from pcace_dist.commands.init.model import ModelLook, default_weights, look_at_model
from pcace_dist.config.job import read_job
from pcace_dist.config.schema import job_schema
from pcace_dist.config.sections import Statistics
from pcace_dist.config.text import flow, load_yaml
from pcace_dist.errors import JobError, OutputError
from pcace_dist.statistics.score import most_components, required_images
from pcace_dist.storage.files import Storage
from pcace_dist.worker.shared_model import cores

Ask = Callable[[str, str], str]
"""A question and its default -> the answer."""

MOST_WORKERS = 8
MOST_COLUMNS, NAMED = 12, 3  # columns and classes that a comment names
OF_PILOT, MOST_PILOT = 32, 8192  # images for one of the pilot, and its size at most: docs/method-tables.md, 8
ROWS = {"Parquet": "rows of Parquet", "images": "images", "CSV": "lines that name an image"}


@dataclass(frozen=True)
class Wishes:
    """What the command line says; None where it says nothing. kwargs, target: as values; label `none`: no label."""

    factory: str
    data: str
    kwargs: Mapping[str, Any]
    weights: str | None = None
    label: str | None = None
    layers: str | None = None
    target: Mapping[str, Any] | None = None
    output: str | None = None


def write_job(wishes: Wishes, out: str, *, force: bool = False, ask: Ask | None = None) -> str:
    """Write the job file, and the schema for editors beside it; return the job's text.

    ask: of a terminal; None: everything is decided here.

    Raises UserError: the model cannot be built, the data cannot be read, or `out` is there already.
    """
    if os.path.exists(out) and not force:
        raise OutputError(f"--out {out}: is there already; take another name, or --force")
    storage = Storage({})
    with tempfile.TemporaryDirectory(prefix="pcace-init-") as scratch:
        said = None if wishes.label in (None, "none") else wishes.label
        data = look_at_data(wishes.data, storage, scratch, said)
    weights = wishes.weights or default_weights(wishes.factory, wishes.kwargs)
    model = look_at_model(wishes.factory, wishes.kwargs, weights, storage, data.size)
    written = _job(wishes, weights, data, model, out, ask or _default)
    read_job(written, name=out)
    try:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(written, encoding="utf-8")
        schema = Path(out).parent / text.SCHEMA
        if force or not schema.exists():
            schema.write_text(json.dumps(job_schema(), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"--out {out}: cannot be written: {error.strerror}") from None
    return written


def _default(_question: str, default: str) -> str:
    return default


def _job(wishes: Wishes, weights: str, data: DataLook, model: ModelLook, out: str, ask: Ask) -> str:
    label = _label(wishes, data, model, ask)
    target, why = _target(wishes, data, model, label, ask)
    layers = [wishes.layers] if wishes.layers else [ask("Which layers (name, glob or all)", model.layers[0])]
    output = wishes.output or ask("Where the results go", f"runs/{Path(out).stem}")
    return text.joined(
        part
        for part in (
            text.head(out),
            text.section("dataset", _dataset(wishes.data, data, model, label)),
            text.section("model", _model(wishes, weights, data, model)),
            _layers(layers, model),
            _ranked(target, why, data, label),
            _statistics(data, layers),
            _workers(),
            text.line("output", output, "rankings.parquet, summary.json and the rest; may be s3://..."),
        )
        if part
    )


# -- the parts


def _label(wishes: Wishes, data: DataLook, model: ModelLook, ask: Ask) -> str | None:
    """The column with the class; None where there is none, or the model has no classes."""
    if wishes.label is not None:
        return None if wishes.label == "none" else wishes.label
    fits = data.largest_label is None or data.largest_label < model.outputs
    found = data.label if model.outputs > 1 and fits and model.is_classifier else None
    answer = ask("Column with the class index or name (none: no labels)", found or "none")
    if answer == "none":
        return None
    if answer not in data.columns:
        raise JobError(f"--label {answer}: there is no such column; there are {', '.join(data.columns) or 'none'}")
    return answer


def _target(
    wishes: Wishes, data: DataLook, model: ModelLook, label: str | None, ask: Ask
) -> tuple[Mapping[str, Any], str]:
    """What the channels are ranked against, and why."""
    if wishes.target is not None:
        return wishes.target, ""
    found, why = _found_target(data, model, label)
    answer = load_yaml(ask("What the channels are ranked against", flow(found)), "target")
    if not isinstance(answer, dict):
        raise JobError(f"target {answer}: write a mapping such as {{logit: label}}")
    return answer, why if answer == found else ""


def _found_target(data: DataLook, model: ModelLook, label: str | None) -> tuple[dict[str, Any], str]:
    if model.maps:
        index = 1 if model.maps > 1 else 0
        return {"output": index, "reduce": "mean"}, f"the mean of one of {model.maps} maps; or reduce: max, area"
    if model.outputs == 1:
        return {"output": 0}, "the model's one output"
    if label is not None:
        return {"logit": "label"}, "the output of the image's own class"
    if not model.is_classifier and data.vectors:
        return {"cosine": data.vectors[0]}, "likeness of the embedding to a vector of the data"
    if not model.is_classifier:
        return {"output": 0}, f"one of {model.outputs} outputs; or cosine: vectors.npy (docs/models.md)"
    return {"logit": "predicted"}, "the output of the class that the model chooses"


def _dataset(path: str, data: DataLook, model: ModelLook, label: str | None) -> list[str]:
    lines = [text.line("path", path, f"{data.rows:,} {ROWS[data.kind]}", indent=2)]
    if data.image != "image" or data.kind != "images":
        what = "the column with paths" if data.kind == "CSV" else "the column with encoded images"
        lines.append(text.line("image", data.image, what, indent=2))
    if label is not None:
        lines.append(text.line("label", label, _classes(data, model), indent=2))
    elif data.label is not None:
        lines.append(text.comment(f"label: {data.label}", indent=2))
    if data.together is not None:
        why = "if images that share one show the same: without it scores look too good"
        lines.append(text.comment(f"fold_by: {data.together}   # {why}", indent=2))
    others = [f"{name} ({kind})" for name, kind in data.columns.items() if name != label]
    if others:
        named = ", ".join(others[:MOST_COLUMNS] + ["..."] * (len(others) > MOST_COLUMNS))
        lines.append(text.comment(f"other columns: {named}", indent=2))
    return lines


def _classes(data: DataLook, model: ModelLook) -> str:
    more = ", ..." if len(model.names) > NAMED else ""
    known = f"; the model calls them {', '.join(list(model.names.values())[:NAMED])}{more}" if model.names else ""
    largest = "" if data.largest_label is None else f" (0 to {data.largest_label})"
    fewer = data.largest_label is not None and data.largest_label + 1 < model.outputs
    meant = ": label 0 is its output 0, and so on" if fewer else ""
    return f"the class{largest}; the model has {model.outputs} outputs{meant}{known}"


def _model(wishes: Wishes, weights: str, data: DataLook, model: ModelLook) -> list[str]:
    lines = [text.line("factory", wishes.factory, indent=2)]
    if wishes.kwargs:
        lines.append(text.line("kwargs", dict(wishes.kwargs), indent=2))
    of_weights = {
        "random": "random numbers! Write your .pt or .safetensors, or `factory` where the factory brings its own",
        "factory": "what the factory brings; or a .pt or .safetensors file",
    }
    lines.append(text.line("weights", weights, of_weights.get(weights, ""), indent=2))
    if model.input == "auto":
        lines.append(text.line("input", "auto", f"what the model's library says: {model.says}", indent=2))
        return lines
    assert isinstance(model.input, dict)
    size = "images differ in size" if data.size is None else f"images are {data.size[1]} x {data.size[0]}"
    lines.append("  input:")
    remarks = {"mode": size, "mean": "as the model was trained: (pixel / 255 - mean) / std"}
    lines += [text.line(key, value, remarks.get(key, ""), indent=4) for key, value in model.input.items()]
    return lines


def _layers(layers: list[str], model: ModelLook) -> str:
    others = [text.comment(f"layers: {flow([name])}   # {words}") for name, words in model.other_layers.items()]
    return "\n".join([text.line("layers", layers, 'names and globs; "!glob" leaves out'), *others])


def _ranked(target: Mapping[str, Any], why: str, data: DataLook, label: str | None) -> str:
    lines = [text.line("target", dict(target), why)]
    lines += [text.comment(f"target: {{column: {name}}}   # a number of the data") for name in data.numbers[:2]]
    if label is not None:
        lines.append(text.comment(f"group_by: {label}   # a ranking for each class"))
    return "\n".join(lines)


def _statistics(data: DataLook, layers: list[str]) -> str:
    """Fewer components where the data are few; a larger pilot where it is a small part of them."""
    standard = Statistics()
    if data.rows < required_images(standard.components, standard.knots):
        components = max(1, most_components(data.rows, standard.knots, standard.components))
        return text.line("statistics", {"components": components}, f"fewer than {standard.components}: images are few")
    pilot = min(data.rows // OF_PILOT, MOST_PILOT)
    if pilot <= standard.pilot or layers == ["all"]:  # whose axes take many passes over the pilot
        return ""
    why = f"{standard.pilot:,} where nothing is said: more make intervals narrower, fewer start sooner"
    return text.line("statistics", {"pilot": pilot}, why)


def _workers() -> str:
    gpus = torch.cuda.device_count()
    if gpus:
        return text.line("workers", {"min": 1, "max": gpus, "gpus": 1}, "one for each GPU of this machine")
    return text.line(
        "workers", {"min": 1, "max": max(1, min(MOST_WORKERS, cores()))}, f"this machine has {cores()} cores"
    )
