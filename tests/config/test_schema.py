"""The job file's JSON Schema: it says everything of every key, takes what jobs are, and refuses what jobs are not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from pcace_dist.cli.main import main
from pcace_dist.config.job import Job, parse_job, read_job
from pcace_dist.config.schema import Node, job_keys, job_schema
from pcace_dist.config.targets import KINDS, OPTIONS, TARGET_SCHEMA
from pcace_dist.config.text import parse_bytes
from pcace_dist.errors import JobError

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = job_schema()
KEYS = dict(job_keys(SCHEMA))
CHECK = Draft202012Validator(SCHEMA)
MINIMAL = {
    "dataset": {"path": "shards", "label": "label"},
    "model": {"factory": "torchvision:resnet18", "weights": "random"},
    "layers": "all",
    "target": {"logit": "label"},
    "output": "runs/x",
}


def job_with(key: str, value: Any) -> dict[str, Any]:
    """The minimal job with one key set, sections between made where they are missing."""
    job: dict[str, Any] = json.loads(json.dumps(MINIMAL))
    *sections, last = key.split(".")
    place = job
    for section in sections:
        place = place.setdefault(section, {})
    place[last] = value
    return job


def is_read(job: dict[str, Any]) -> bool:
    try:
        parse_job(job)
    except JobError:
        return False
    return True


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_says_what_it_means_in_a_sentence_and_by_examples(key: str) -> None:
    node = KEYS[key]
    assert node["description"].endswith(".") and node["examples"]
    for example in node["examples"]:
        assert CHECK.is_valid(job_with(key, example))
        assert is_read(job_with(key, example))


def defaults(node: Node, value: Any) -> None:
    """The defaults of a section are the values of a job that does not say them."""
    for name, one in node["properties"].items():
        if "default" in one and name not in ("mean", "std", "path"):
            assert one["default"] == value[name], name


def test_the_defaults_are_those_of_a_job() -> None:
    plain = parse_job(MINIMAL).model_dump(mode="json")
    defaults(SCHEMA, plain)
    for name in ("Statistics", "Workers", "Compute", "Limits"):
        defaults(SCHEMA["$defs"][name], plain[name.lower()])
    defaults(SCHEMA["$defs"]["Input"], plain["model"]["input"])
    defaults(SCHEMA["$defs"]["Model"], plain["model"])


def jobs() -> dict[str, str]:
    """Every job file of the examples, the README's, and the one of the cluster."""
    paths = [*sorted((ROOT / "examples").rglob("*.yaml")), ROOT / "cluster" / "kubernetes" / "base" / "ranking.yaml"]
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in paths}
    readme = re.findall(r"^( *)```yaml\n(.*?)^\1```", (ROOT / "README.md").read_text(), re.S | re.M)
    texts |= {f"README {n}": re.sub(rf"^{space}", "", text, flags=re.M) for n, (space, text) in enumerate(readme)}
    return texts


@pytest.mark.parametrize("name", jobs())
def test_it_takes_the_example_jobs_and_what_they_resolve_to(name: str) -> None:
    CHECK.validate(yaml.safe_load(jobs()[name]))
    CHECK.validate(yaml.safe_load(read_job(jobs()[name]).to_yaml()))


@pytest.mark.parametrize("name", [name for name in jobs() if name.startswith("examples")])
def test_example_jobs_name_the_schema_for_editors(name: str) -> None:
    (path,) = re.findall(r"^# yaml-language-server: \$schema=(.*)$", jobs()[name], re.M)
    assert ((ROOT / name).parent / path).resolve() == ROOT / "docs" / "reference" / "job.schema.json"


@pytest.mark.parametrize("value", ["4GiB", "500 MB", "12kb", "7", "1.5 TiB", "3b", 12, None])
def test_sizes_as_they_are_written(value: Any) -> None:
    parse_bytes(value)
    assert CHECK.is_valid(job_with("statistics.memory", value))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset.path", ["a", "b/*.parquet"]),
        ("layers", {"name": "block", "layout": "BNC"}),
        ("target", [{"logit": "label"}, {"logit": 3, "minus": 5}]),
        ("target", {"output": 3, "reduce": "area", "classes": "last"}),
        ("target", {"cosine": "text_embedding"}),
        ("target", {"cosine": "prototypes.npy", "index": 3}),
        ("effect", {"gradient": False}),
        ("effect", {"of": {"margin": "label"}}),
        ("compute.exact", False),
        ("model.input", "auto"),
        ("model.input", {"mean": "auto", "resize": 256}),
        ("compute.batch", "auto"),
        ("model.input.mean", None),
        ("model.input.crop", [224, 200]),
        ("storage", {"s3://b/": {"anonymous": True}}),
    ],
)
def test_every_spelling_that_is_read_is_taken(key: str, value: Any) -> None:
    assert CHECK.is_valid(job_with(key, value))
    assert is_read(job_with(key, value))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("datset", {"path": "x"}),
        ("statistics.knot", 9),
        ("model.input.rezise", 3),
        ("storage", {"s3://b/": {"endpont": "x"}}),
        ("statistics.components", 21),
        ("statistics.memory", "lots"),
        ("workers.max", 0),
        ("compute.batch", "big"),
        ("compute.exact", "weak"),
        ("model.input.mode", "CMYK"),
        ("model.input", "as trained"),
        ("model.input", {"mean": "automatic"}),
        ("effect", {"of": "output"}),
        ("effect", {"images": 8}),
        ("model.output", -1),
        ("model.output", ""),
        ("limits.pixels", 0),
        ("max_bad_rows", 1.5),
        ("output", ""),
        ("output", None),
        ("dataset.path", None),
        ("layers", [{"name": "x", "layout": "HWC"}]),
        ("target", {"class": 1}),
        ("target", {"logit": "lable"}),
        ("target", {"output": -1}),
        ("target", {"logit": 1, "output": 2}),
        ("target", {"output": 3, "reduce": "sum"}),
        ("target", "logit"),
    ],
)
def test_what_no_job_may_say_is_refused_by_both(key: str, value: Any) -> None:
    assert not CHECK.is_valid(job_with(key, value))
    assert not is_read(job_with(key, value))


@pytest.mark.parametrize("key", SCHEMA["required"])
def test_required_keys_are_required_by_both(key: str) -> None:
    job = {name: value for name, value in MINIMAL.items() if name != key}
    assert not CHECK.is_valid(job) and not is_read(job)


def test_the_schema_of_a_target_has_all_its_keys() -> None:
    assert set(TARGET_SCHEMA["properties"]) == {*KINDS, *OPTIONS}


def test_the_keys_are_those_of_the_resolved_job() -> None:
    def flat(value: Any, prefix: str = "") -> set[str]:
        """Keys of nested mappings that are sections."""
        names = {f"{prefix}{name}" for name in value}
        for name, inner in value.items():
            if isinstance(inner, dict) and f"{prefix}{name}" in ("dataset", "model", "model.input", *SECTIONS):
                names |= flat(inner, f"{prefix}{name}.")
        return names

    plain = parse_job(MINIMAL | {"stop": {}}).model_dump(mode="json")
    assert flat(plain) == set(KEYS)


SECTIONS = tuple(name for name, field in Job.model_fields.items() if name not in ("dataset", "model", "storage"))


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA
