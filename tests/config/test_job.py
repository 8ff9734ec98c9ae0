"""The job file: defaults, one-line errors that name the key, a fingerprint that covers what the result depends on."""

from __future__ import annotations

import json
import pickle

import jsonschema
import pytest

from pcace_dist.config.job import Job, read_job
from pcace_dist.config.resolve import images_of
from pcace_dist.config.text import parse_bytes
from pcace_dist.datasets.sections import FROM_MODEL
from pcace_dist.errors import JobError

MINIMAL = """
dataset: {path: shards, label: label}
model: {factory: "torchvision:resnet18", weights: random}
layers: ["layer4.*.conv2"]
target: {logit: label}
output: runs/x
"""


SAID = {"mode": "RGB", "resize": 232, "crop": 224, "crop_offset": "floor", "interpolation": "bicubic"}
SAID |= {"antialias": True, "scaled_decode": False, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}


def job(*overrides: str) -> Job:
    return read_job(MINIMAL, name="job.yaml", overrides=overrides)


def test_only_six_keys_are_required_and_the_rest_has_defaults() -> None:
    minimal = job()
    assert minimal.dataset.image == "image"
    assert minimal.model.input.mean == [0.0, 0.0, 0.0]
    assert minimal.model.input.std == [1.0, 1.0, 1.0]
    statistics = minimal.statistics
    assert (statistics.components, statistics.knots, statistics.folds, statistics.pilot) == (5, 9, 16, 2048)
    assert (minimal.workers.min, minimal.workers.max, minimal.workers.start_timeout) == (1, 2, 600)
    assert minimal.limits.pixels == 178956970
    assert minimal.max_bad_rows == 0.01


def test_one_path_layer_or_target_is_a_list_of_one() -> None:
    one = job("layers=all")
    assert one.layers == ["all"]
    assert one.dataset.path == ["shards"]
    assert one.target == [{"logit": "label"}]


def test_a_grey_input_has_one_mean() -> None:
    assert job("model.input={mode: L}").model.input.std == [1.0]


def test_the_resolved_job_reads_back_as_itself() -> None:
    resolved = job("statistics.knots=17", "stop={top: 5}", "compute.exact=off")
    assert read_job(resolved.to_yaml()) == resolved


# -- what the model is to say


def test_auto_stands_for_all_keys_that_a_model_may_say() -> None:
    model = job("model.input=auto").model
    assert model.auto == set(FROM_MODEL) and model.input == job().model.input
    assert job("model.input={mean: auto, std: auto, crop: 200}").model.auto == {"mean", "std"}
    assert job().model.auto == set() and job("model.input.decode=auto").model.auto == set()


@pytest.mark.parametrize("given", ["auto", "{mean: auto, crop: 200, orientation: exif}"])
def test_auto_is_written_and_read_again(given: str) -> None:
    asked = job(f"model.input={given}")
    assert read_job(asked.to_yaml()) == asked and read_job(asked.to_yaml()).model.auto == asked.model.auto
    assert asked.model_copy(update={"output": "runs/y"}).model.auto == asked.model.auto
    assert pickle.loads(pickle.dumps(asked)) == asked


def test_a_key_beside_auto_is_the_jobs_own() -> None:
    asked = job("model.input=auto", "model.input.crop=200", "model.input.orientation=exif")
    assert asked.model.auto == set(FROM_MODEL) - {"crop"} and asked.model.input.orientation == "exif"
    said = asked.with_input(SAID)
    assert not said.model.auto and said.model.input.crop == 200 and said.model.input.resize == 232
    assert said.model_fields_set == asked.model_fields_set  # what the job does not say stays open


def test_what_the_model_said_is_the_job_that_has_it_written() -> None:
    written = job(*(f"model.input.{key}={json.dumps(value)}" for key, value in SAID.items()))
    known = {"layers": ["a"], "weights_digest": "w"}
    assert job("model.input=auto").with_input(SAID).fingerprint(**known) == written.fingerprint(**known)  # type: ignore[arg-type]
    assert job("model.input=auto").filled_from(written) == written
    with pytest.raises(ValueError, match=r"antialias, crop, .* are not known yet"):
        job("model.input=auto").fingerprint(**known)  # type: ignore[arg-type]


def test_the_default_of_before_is_outside_of_the_fingerprint() -> None:
    assert "crop_offset" not in job("model.input.crop_offset=round").dependent()["model"]["input"]
    assert job("model.input.crop_offset=floor").dependent()["model"]["input"]["crop_offset"] == "floor"
    assert "shown" not in job().dependent() and job("shown=none").dependent()["shown"] == "none"


def test_the_schema_knows_auto() -> None:
    schema = Job.model_json_schema()
    jsonschema.validate(job("model.input=auto").model_dump(mode="json"), schema)
    jsonschema.validate(job("model.input={mean: auto}").model_dump(mode="json"), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job().model_dump(mode="json") | {"model": {"input": "atuo"}}, schema)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.input=atuo", "model.input: should be a mapping (got 'atuo')"),
        ("model.input={men: auto}", "unknown key 'model.input.men'; did you mean 'mean'?"),
        ("model.input.resize=automatic", "model.input.resize"),
        ("statistics.knot=9", "unknown key 'statistics.knot'; did you mean 'knots'?"),
        ("datset.path=x", "unknown key 'datset'; did you mean 'dataset'?"),
        ("storage={'s3://b/': {endpont: x}}", "did you mean 'endpoint'?"),
        ("model.input.rezise=3", "unknown key 'model.input.rezise'; did you mean 'resize'?"),
        ("limits={a: 1, pixels: 0}", "unknown key 'limits.a'; known keys: pixels, bytes"),
        ("limits.pixels=0", "limits.pixels: input should be greater than or equal to 1 (got 0)"),
        ("limits=5", "limits: should be a mapping (got 5)"),
        ("storage={'s3://b/': x}", "storage.s3://b/: should be a mapping"),
        ("dataset={label: x}", "dataset.path is missing; it is required"),
        ("dataset.path=[a, '']", "dataset.path: names no path"),
        ("model.input.mean=[.nan, 0, 0]", "model.input.mean.0: input should be a finite number (got nan)"),
        ("workers.max=0", "workers.max: input should be greater than or equal to 1 (got 0)"),
        ("workers.min=5", "min: 5 is above workers.max 2"),
        ("compute.batch=big", "compute.batch"),
        ("model.input.mode=CMYK", "model.input.mode: input should be 'RGB', 'L' or 'tensor' (got 'CMYK')"),
        ("model.input.decode=nvjpeg", "model.input.decode: input should be 'auto', 'cpu' or 'gpu' (got 'nvjpeg')"),
        ("model.input.orientation=auto", "model.input.orientation: input should be 'none' or 'exif' (got 'auto')"),
        ("model.input.std=[0, 1, 1]", "std: every value must be above 0"),
        ("model.input.mean=[1, 2]", "mean: 2 values; mode RGB needs 3"),
        ("target={class: 1}", "unknown kind 'class'"),
        ("layers=[]", "layers: names no layer"),
        ("output=null", "output: input should be a valid string (got None); for example output: runs/resnet18"),
        ("target=logit", "target: input should be a valid list (got 'logit'); for example target: {logit: label}"),
        ("workers=4", "workers: should be a mapping (got 4); for example workers: {max: 8, gpus: 1}"),
        ("model.input.mean=0.5", "input should be a valid list (got 0.5); for example mean: [0.485, 0.456, 0.406]"),
        ("dataset.label_base=9223372036854775808", "label_base: input should be less than 9223372036854775808"),
        ("statistics.memory=lots", "'lots' is not a size; for example 4GiB"),
        ("statistics.components=21", "statistics.components"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(override: str, message: str) -> None:
    with pytest.raises(JobError) as caught:
        job(override)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("job.yaml: ")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(JobError, match=r"job.yaml: model.weights is missing"):
        read_job(MINIMAL.replace(", weights: random", ""), name="job.yaml")


def test_broken_yaml_is_named_with_its_line() -> None:
    with pytest.raises(JobError, match=r"job.yaml: line \d+ is not valid YAML"):
        read_job("dataset: {path: [\nlayers: all", name="job.yaml")


def test_an_override_needs_an_equals_sign() -> None:
    with pytest.raises(JobError, match="write key=value"):
        job("workers.max")


def digest(*overrides: str, layers: tuple[str, ...] = ("a",), weights: str = "w") -> str:
    return job(*overrides).fingerprint(layers=layers, weights_digest=weights)


@pytest.mark.parametrize(
    "override",
    [
        "workers.max=64",
        "output=elsewhere",
        "max_bad_rows=0.5",
        "model.weights=copy.pt",
        "storage={'s3://b/': {region: x}}",
        "compute.exact=off",
    ],
)
def test_the_fingerprint_does_not_cover_how_and_where(override: str) -> None:
    assert digest(override) == digest()


@pytest.mark.parametrize(
    "override",
    [
        "dataset.path=other",
        "statistics.knots=17",
        "group_by=label",
        "target={logit: 3}",
        "model.input.resize=64",
        "compute.batch=7",
        "dataset.filter={label: 3}",
    ],
)
def test_the_fingerprint_covers_what_the_result_depends_on(override: str) -> None:
    assert digest(override) != digest()


def test_jobs_from_before_the_key_decode_keep_their_fingerprint() -> None:
    assert "decode" not in job().dependent()["model"]["input"]
    assert digest("model.input.decode=auto") == digest()
    assert len({digest(f"model.input.decode={decode}") for decode in ("auto", "cpu", "gpu")}) == 3


def test_jobs_from_before_the_key_orientation_keep_their_fingerprint() -> None:
    assert "orientation" not in job().dependent()["model"]["input"]
    assert digest("model.input.orientation=none") == digest() != digest("model.input.orientation=exif")
    assert images_of(job("model.input.orientation=exif")).orientation == "exif"


def test_the_fingerprint_covers_resolved_layers_and_loaded_weights() -> None:
    assert digest(layers=("a", "b")) != digest()
    assert digest(weights="other") != digest()


@pytest.mark.parametrize(("text", "value"), [("4GiB", 4 << 30), ("500 MB", 500_000_000), ("1.5 kib", 1536), ("7", 7)])
def test_sizes(text: str, value: int) -> None:
    assert parse_bytes(text) == value
