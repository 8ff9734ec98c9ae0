"""Targets as the job writes them: canonical names, and what is said of one that is none."""

from __future__ import annotations

from typing import Any

import pytest

from pcace_dist.config.targets import TargetSpec, parse_name, parse_target
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
    ({"column": "no2"}, TargetSpec("column", "no2"), "column:no2"),
    ({"column": "no2:mean-1"}, TargetSpec("column", "no2:mean-1"), "column:no2:mean-1"),
]


@pytest.mark.parametrize("mapping, spec, name", NAMES)
def test_targets_are_parsed_and_named_canonically(mapping: dict[str, Any], spec: TargetSpec, name: str) -> None:
    assert parse_target(mapping) == spec
    assert spec.name == name
    assert parse_name(name) == spec
    assert spec.needs_label == name.endswith(":label")


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
        ({"column": "no2", "minus": 4}, "minus goes with the index of an output"),
    ],
)
def test_a_target_that_is_none_says_what_would_do(mapping: dict[str, Any], words: str) -> None:
    with pytest.raises(JobError, match=words) as error:
        parse_target(mapping)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "margin", "logit:label-3", "logit:x", "logit:3-", "column:"])
def test_a_name_that_is_none_says_what_would_do(name: str) -> None:
    with pytest.raises(JobError, match=r"\{logit: label\}|needs|minus"):
        parse_name(name)
