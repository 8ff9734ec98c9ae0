"""The job file: defaults, one-line errors that name the key, a fingerprint that covers what the result depends on."""

from __future__ import annotations

import pytest

from pcace_dist.config.job import Job, read_job
from pcace_dist.config.resolve import images_of
from pcace_dist.config.text import parse_bytes
from pcace_dist.errors import JobError

MINIMAL = """
dataset: {path: shards, label: label}
model: {factory: "torchvision:resnet18", weights: random}
layers: ["layer4.*.conv2"]
target: {logit: label}
output: runs/x
"""


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


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("statistics.knot=9", "unknown key 'statistics.knot'; did you mean 'knots'?"),
        ("datset.path=x", "unknown key 'datset'; did you mean 'dataset'?"),
        ("storage={'s3://b/': {endpont: x}}", "did you mean 'endpoint'?"),
        ("model.input.rezise=3", "unknown key 'model.input.rezise'; did you mean 'resize'?"),
        ("limits={a: 1, pixels: 0}", "unknown key 'limits.a'; known keys: pixels, bytes"),
        ("limits.pixels=0", "limits.pixels: input should be greater than or equal to 1 (got 0)"),
        ("limits=5", "limits: input should be a valid dictionary or instance of Limits (got 5)"),
        ("storage={'s3://b/': x}", "storage.s3://b/: input should be a valid dictionary or instance of Endpoint"),
        ("dataset={label: x}", "dataset.path is missing; it is required"),
        ("dataset.path=[a, '']", "dataset.path: names no path"),
        ("model.input.mean=[.nan, 0, 0]", "model.input.mean.0: input should be a finite number (got nan)"),
        ("workers.max=0", "workers.max: input should be greater than or equal to 1 (got 0)"),
        ("workers.min=5", "min: 5 is above workers.max 2"),
        ("compute.batch=big", "compute.batch"),
        ("model.input.mode=CMYK", "model.input.mode: input should be 'RGB' or 'L' (got 'CMYK')"),
        ("model.input.decode=nvjpeg", "model.input.decode: input should be 'auto', 'cpu' or 'gpu' (got 'nvjpeg')"),
        ("model.input.orientation=auto", "model.input.orientation: input should be 'none' or 'exif' (got 'auto')"),
        ("model.input.std=[0, 1, 1]", "std: every value must be above 0"),
        ("model.input.mean=[1, 2]", "mean: 2 values; mode RGB needs 3"),
        ("target={class: 1}", "unknown kind 'class'"),
        ("layers=[]", "layers: names no layer"),
        ("output=null", "output: input should be a valid string"),
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
