"""Targets as the job writes them: canonical names, and what is said of one that is none."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from pcace_dist.config.targets import Reduction, TargetSpec, have_classes, parse_name, parse_target, reduction_of
from pcace_dist.errors import JobError

NAMES = [
    ({"logit": "label"}, TargetSpec("logit", "label"), "logit:label"),
    ({"logit": 3}, TargetSpec("logit", 3), "logit:3"),
    ({"logit": "predicted"}, TargetSpec("logit", "predicted"), "logit:predicted"),
    ({"logit": 3, "minus": 5}, TargetSpec("logit", 3, minus=5), "logit:3-5"),
    ({"minus": 0, "output": 1}, TargetSpec("output", 1, minus=0), "output:1-0"),
    ({"margin": "label"}, TargetSpec("margin", "label"), "margin:label"),
    ({"margin": "predicted"}, TargetSpec("margin", "predicted"), "margin:predicted"),
    ({"loss": "label"}, TargetSpec("loss", "label"), "loss:label"),
    ({"loss": 2}, TargetSpec("loss", 2), "loss:2"),
    ({"output": 0}, TargetSpec("output", 0), "output:0"),
    ({"output": 3, "reduce": "mean"}, TargetSpec("output", 3, reduction=Reduction("mean")), "output:3:mean"),
    (
        {"logit": "label", "reduce": "area"},
        TargetSpec("logit", "label", reduction=Reduction("area")),
        "logit:label:area",
    ),
    (
        {"logit": 3, "minus": 5, "reduce": "max"},
        TargetSpec("logit", 3, minus=5, reduction=Reduction("max")),
        "logit:3-5:max",
    ),
    ({"cosine": "text"}, TargetSpec("cosine", "text"), "cosine:text"),
    (
        {"cosine": "text", "reduce": "mean"},
        TargetSpec("cosine", "text", reduction=Reduction("mean")),
        "cosine:text:mean",
    ),
    ({"cosine": "p.npy", "index": 3}, TargetSpec("cosine", "p.npy", pick=3), "cosine:p.npy:3"),
    ({"cosine": "p.npy", "index": "label"}, TargetSpec("cosine", "p.npy", pick="label"), "cosine:p.npy:label"),
    ({"cosine": "p.npz", "name": "red car"}, TargetSpec("cosine", "p.npz", pick="red car"), "cosine:p.npz:red car"),
    ({"column": "no2"}, TargetSpec("column", "no2"), "column:no2"),
    ({"column": "no2:mean-1"}, TargetSpec("column", "no2:mean-1"), "column:no2:mean-1"),
]


@pytest.mark.parametrize("mapping, spec, name", NAMES)
def test_targets_are_parsed_and_named_canonically(mapping: dict[str, Any], spec: TargetSpec, name: str) -> None:
    assert parse_target(mapping) == spec
    assert spec.name == name
    assert parse_name(name) == spec
    assert parse_target(yaml.safe_load(spec.written)) == spec


@pytest.mark.parametrize(
    "mapping, words",
    [
        ({"logit": "lable"}, r"target \{logit: lable\}: needs label, predicted or the index .*did you mean label\?"),
        ({"logit": "3"}, "needs label, predicted or the index of an output"),
        ({"logit": -1}, "a whole number from 0"),
        ({"logit": True}, "a whole number from 0"),
        ({"output": "label"}, "a whole number from 0"),
        ({"column": 3}, "needs the name of a numeric column"),
        ({"column": ""}, "needs the name of a numeric column"),
        ({"logits": "label"}, r"unknown kind 'logits' \(did you mean logit\?\)"),
        ({"marge": "label"}, r"unknown kind 'marge' \(did you mean margin\?\)"),
        ({"margin": "lable"}, r"did you mean label\?"),
        ({}, r"write one of \{logit: label\}"),
        ({"logit": 1, "output": 0}, r"write one of \{logit: label\}"),
        ({"logit": 1, "minsu": 0}, r"unknown key 'minsu' \(did you mean minus\?\)"),
        ({"logit": 3, "minus": "5"}, "minus needs the index of an output"),
        ({"logit": 3, "minus": 3}, "is 0 for every image; minus needs the index of another output"),
        ({"logit": "label", "minus": 3}, r"minus goes with the index of an output, for example \{logit: 3, minus: 5\}"),
        ({"margin": 3, "minus": 4}, "minus goes with the index of an output"),
        ({"output": 3, "reduce": "maen"}, r"reduce needs mean, max, area \(did you mean mean\?\)"),
        ({"output": 3, "reduce": 2}, r"reduce needs mean, max, area"),
        ({"output": 3, "classes": "last"}, r"reduce needs mean, max, area"),
        ({"output": 3, "reduce": "max", "classes": 1}, "classes needs first or last"),
        ({"loss": "label", "reduce": "area"}, "areas are no logits; use reduce: mean"),
        ({"column": "no2", "reduce": "mean"}, "go with outputs of the model, not with a column"),
        ({"cosine": 3}, "needs the name of a column of vectors"),
        ({"cosine": "p.npy"}, "a file of vectors needs index"),
        ({"cosine": "p.npz", "index": 3}, "a file of vectors needs name"),
        ({"cosine": "p.npy", "index": "3"}, "index needs a whole number from 0, or label"),
        ({"cosine": "p.npz", "name": 3}, "name needs the name of a vector"),
        ({"cosine": "p.pt", "index": 3}, r"a file that numpy wrote, for example \{cosine: prototypes.npy, index: 3\}"),
        ({"logit": 3, "name": "cat"}, "index and name pick a vector of a file"),
        ({"cosine": "text", "minus": 3}, "minus goes with the index of an output"),
        ({"cosine": "text", "reduce": "area"}, "areas are no embedding; use reduce: mean"),
        ({"column": "no2", "minus": 4}, "minus goes with the index of an output"),
    ],
)
def test_a_target_that_is_none_says_what_would_do(mapping: dict[str, Any], words: str) -> None:
    with pytest.raises(JobError, match=words) as error:
        parse_target(mapping)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["", "margin", "logit:label-3", "logit:x", "logit:3-", "column:", "output:3:", "output:3:sum"]
)
def test_a_name_that_is_none_says_what_would_do(name: str) -> None:
    with pytest.raises(JobError, match=r"\{logit: label\}|needs|minus|reduce"):
        parse_name(name)


def test_classes_says_which_axis_and_is_no_part_of_the_name() -> None:
    spec = parse_target({"output": 17, "reduce": "max", "classes": "last"})
    assert spec.reduction == Reduction("max", "last")
    assert spec.name == "output:17:max"
    assert spec.written == "{output: 17, reduce: max, classes: last}"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["logit:label", "column:no2"], True),
        (["output:3"], True),
        (["column:no2", "cosine:text"], False),
        (["output:3:mean"], False),
    ],
)
def test_outputs_are_classes_unless_they_are_an_embedding_or_have_positions(names: list[str], expected: bool) -> None:
    assert have_classes([parse_name(name) for name in names]) == expected


def test_the_targets_of_a_job_reduce_in_one_way() -> None:
    column, plain = TargetSpec("column", "no2"), TargetSpec("output", 0)
    mean = [parse_name(name) for name in ("output:3:mean", "margin:label:mean")]
    assert reduction_of([*mean, column]) == Reduction("mean")
    assert reduction_of([plain, column]) is None
    assert reduction_of([column]) == Reduction("mean", required=False)
    for other in (plain, parse_name("output:3:area")):
        with pytest.raises(JobError, match=r"reduce: mean\} and \{output: .* must have the same reduce; make two jobs"):
            reduction_of([*mean, other])


def test_a_file_of_vectors_is_named_without_its_folders() -> None:
    spec = parse_target({"cosine": "s3://bucket/clip/text.npz", "name": "cat"})
    assert spec.name == "cosine:text.npz:cat"
    assert (spec.file, spec.vectors, spec.column) == ("s3://bucket/clip/text.npz", None, None)
    assert spec.written == "{cosine: s3://bucket/clip/text.npz, name: cat}"


def test_what_each_kind_needs_of_the_data() -> None:
    needs = {
        "logit:label": (True, None, None),
        "cosine:p.npy:label": (True, None, None),
        "cosine:p.npz:label": (False, None, None),
        "cosine:text": (False, None, "text"),
        "column:label": (False, "label", None),
    }
    for name, expected in needs.items():
        spec = parse_name(name)
        assert (spec.needs_label, spec.column, spec.vectors) == expected
        assert spec.differentiable == spec.of_outputs == (spec.column is None)
