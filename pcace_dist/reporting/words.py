"""The words that channels may be named by, and how far the sampled images are what they say: by an image-text model of
the user's, or without one by the classes and the columns of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pcace_dist.artifacts.reading.rows import fetch
from pcace_dist.datasets.decoding.thumbnail import as_image
from pcace_dist.errors import JobError, ModelError
from pcace_dist.models.checkpoint import short_line
from pcace_dist.models.load import load_function
from pcace_dist.reporting.naming import LEAST, Floats, suggest
from pcace_dist.reporting.options import ReportOptions
from pcace_dist.reporting.page import numbers
from pcace_dist.reporting.progress import ReportProgress
from pcace_dist.reporting.selection import PageSelection
from pcace_dist.reporting.source import ReportSource

Similarity: TypeAlias = Callable[[list[Image.Image], list[str]], Any]

IMAGES = 1024  # of the sample that an image-text model sees
BATCH = 64
OPTION = "--labels"


@dataclass(frozen=True, eq=False)
class Words:
    """similarity (n, W) of n sampled images, by their rows in the sample, to W words. by: what says so."""

    by: str
    names: tuple[str, ...]
    rows: npt.NDArray[np.int64]
    similarity: Floats


def known_words(source: ReportSource) -> Words | None:
    """The classes of the sample's labels, high and low values of every column that is a target; None without any."""
    sample = source.sample
    if sample is None:
        return None
    columns = [*_classes(source), *_columns(source)]
    if len(columns) < 2:
        return None
    names, values = zip(*columns, strict=True)
    return Words("classes and columns", names, np.arange(len(sample), dtype=np.int64), np.stack(values, 1))


def _classes(source: ReportSource) -> Iterator[tuple[str, Floats]]:
    assert source.sample is not None
    label = source.sample.label
    classes = np.unique(label[label >= 0]).tolist()
    for index in classes if len(classes) > 1 else ():
        yield f"{source.dataset.label} {source.ranking.names.label(index)}", (label == index).astype(np.float64)


def _columns(source: ReportSource) -> Iterator[tuple[str, Floats]]:
    assert source.sample is not None
    for position, target in enumerate(source.targets):
        values = source.sample.targets[:, position]
        if target.kind == "column" and target.value != source.dataset.label and np.isfinite(values).any():
            filled = np.where(np.isfinite(values), values, np.nanmedian(values))
            yield from ((f"high {target.value}", filled), (f"low {target.value}", -filled))


class LabelModel:
    """The user's image-text model: `function(images, words)` gives a similarity (len(images), len(words)) of PIL images
    in RGB, as the ranked model sees them, to words. Raises ModelError for one that cannot be called, JobError without
    words."""

    def __init__(self, source: ReportSource, options: ReportOptions) -> None:
        assert options.labels is not None
        self._name = f"{OPTION} {options.labels}"
        self._function: Similarity = load_function(str(options.labels), self._name, (source.origin.directory,))
        self._words = list(options.words or _default_words(source))
        if len(self._words) < 2:
            raise JobError(f"{OPTION}: needs words, two at least, and the run names no classes; use --words FILE")

    def of(self, source: ReportSource, progress: ReportProgress) -> Words:
        """The words for the first images of the sample that can be read."""
        assert source.sample is not None
        wanted = np.arange(min(IMAGES, len(source.sample)), dtype=np.int64)
        progress.stage("images and words", len(wanted))
        rows: list[int] = []
        similarity: list[Floats] = []
        for fetched in fetch(source, source.sample.refs(wanted), BATCH):
            similarity.append(self._similarity([as_image(image).convert("RGB") for image in fetched.images]))
            rows += fetched.numbers
            progress.step(len(fetched.numbers))
        matrix = np.concatenate(similarity) if similarity else np.zeros((0, len(self._words)))
        return Words(self._name.removeprefix(f"{OPTION} "), tuple(self._words), np.array(rows, np.int64), matrix)

    def _similarity(self, images: list[Image.Image]) -> Floats:
        try:
            with torch.no_grad():
                found = self._function(images, list(self._words))
            values = np.asarray(found.cpu() if isinstance(found, torch.Tensor) else found, np.float64)
        except Exception as error:
            raise ModelError(f"{self._name}: raised {type(error).__name__}: {short_line(error)}") from error
        expected = len(images), len(self._words)
        if values.shape != expected or not np.isfinite(values).all():
            what = f"shape {values.shape}" if values.shape != expected else "values that are not finite"
            raise ModelError(f"{self._name}: gave {what}; {expected} numbers are wanted, a row per image, one per word")
        return values


def _default_words(source: ReportSource) -> list[str]:
    names = [name for _, name in sorted(source.ranking.names.names.items())]
    return [*names, *(str(target.value) for target in source.targets if target.kind == "column")]


def names_of(source: ReportSource, selection: PageSelection, words: Words | None) -> dict[str, Any] | None:
    """For the page: by what the channels are named, of how many images, and for each channel that has a page its best
    words with AUC and interval, best first. None where there is nothing to say."""
    sample = source.sample
    if words is None or sample is None or not selection.channels:
        return None
    first = sample.shared.folds.numpy()[words.rows] % 2 == 0
    if min(first.sum(), (~first).sum()) < 4 * LEAST:
        return None
    named: dict[str, list[Any]] = {}
    for layer, channels in selection.pages.items():
        found = suggest(words.similarity, sample.means(layer)[words.rows][:, list(channels)], first)
        for row, channel in enumerate(channels):
            auc, low, high = (numbers(values[row], 3) for values in (found.auc, found.low, found.high))
            entries = zip(found.words[row].tolist(), auc, low, high, strict=True)
            best = [[words.names[word], *values] for word, *values in entries if word >= 0]
            if best:
                named[f"{layer}/{channel}"] = best
    return {"by": words.by, "words": len(words.names), "images": len(words.rows), "channels": named}
