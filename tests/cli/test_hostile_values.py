"""No value of any key of a job makes a traceback: it is refused in one line, or the job is done."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from pcace_dist.cli.main import main
from pcace_dist.config.explain import keys_of, section_of
from pcace_dist.config.job import Job, read_job
from pcace_dist.errors import JobError
from tests.cli.test_bad_input import JOB
from tests.planted import write_planted

NUMBERS = ("-1", "0", "1", "3", "100000", "1e400", ".inf", "-.inf", ".nan", "1e308", "18446744073709551616", "0x7f")
TEXTS = (
    *('""', "label", "image", "exponential", '"*"', "**", '"["', '"[a"', "'é'", "s3://", "http://u:p@h/x", "%s%n"),
    *('"\\0"', '"\\ud800"', '"a\\nb"', '"\\e[31mred"', "'[/red]'", '"\\\\"', "'" + "x" * 300 + "'"),
)
OTHERS = (
    *("null", "true", "off", "[]", "[1]", "[[]]", "[image]", "[a, a]", "{}", "{a: 1}", "{1: 2}", "{[1]: 2}"),
    *("2001-01-01", "2001-13-45", "!!binary aGk=", "!!int x", "!!timestamp x", "&a [*a]", "*a"),
)
VALUES = NUMBERS + TEXTS + OTHERS
PARSED_ONLY = ("workers.", "storage.")  # a cluster or a bucket would be asked for


def keys(section: type = Job, prefix: str = "") -> Iterator[str]:
    for name, kind in keys_of(section).items():
        yield prefix + name
        inner = section_of(kind)
        if inner is not None:
            yield from keys(inner, f"{prefix}{name}.")


TRIES = [(key, value) for key in keys() for value in VALUES]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_planted(folder, 60, shards=1, row_group=30)
    return folder


def try_all(tries: list[tuple[str, str]], data: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, (key, value) in enumerate(tries):
        job = folder / "job.yaml"
        job.write_text(JOB.format(data=data, output=folder / "out" / f"run{number}"))
        code = main(["rank", str(job), "--set", f"{key}={value}"])
        printed = capsys.readouterr()
        assert code in (0, 2, 4), f"{key}={value[:50]}: {printed.err}"
        assert "Traceback" not in printed.err
        if code == 2:
            *_, line = printed.err.splitlines()
            assert line.startswith("pcace rank: ") and len(line) < 700, f"{key}={value[:50]}: {printed.err}"


def test_every_value_of_every_key_is_parsed_or_refused_in_a_line() -> None:
    assert len(TRIES) > 2000
    text = JOB.format(data="data", output="out")
    for key, value in TRIES:
        try:
            read_job(text, name="job.yaml", overrides=[f"{key}={value}"])
        except JobError as error:
            assert "\n" not in str(error) and len(str(error)) < 600, f"{key}={value[:50]}"


def run_whole(tries: list[tuple[str, str]]) -> list[tuple[str, str]]:
    slow = {("model.input.resize", "0x7f")}  # 127 pixels high, some thousand wide
    return [(key, value) for key, value in tries if not key.startswith(PARSED_ONLY) and (key, value) not in slow]


def test_some_jobs_of_any_values_end_with_a_code(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try_all(random.Random(0).sample(run_whole(TRIES), 150), data, tmp_path, capsys)


@pytest.mark.faults
def test_all_jobs_of_any_values_end_with_a_code(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try_all(run_whole(TRIES), data, tmp_path, capsys)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{" * 5000, "nested too deeply"),
        ("a: \x01", "not valid YAML"),
        ("a: &a {b: *a}", "holds itself"),
        ("a: 2001-13-45", "month"),
        ("limits: {pixels: 1" + "0" * 5000 + "}", "not valid YAML"),
        ('output: "a\\0b"', "null character"),
        (
            "a: &a [x, x]\n" + "".join(f"{n}: &{n} [{', '.join([f'*{m}'] * 9)}]\n" for m, n in pairwise("abcdefgh")),
            "alias",
        ),
    ],
)
def test_texts_that_are_no_job_are_refused_in_a_line(text: str, said: str) -> None:
    with pytest.raises(JobError, match=said) as caught:
        read_job(text, name="job.yaml")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("job.yaml: ")


def test_a_picture_beyond_the_limit_is_refused() -> None:
    with pytest.raises(JobError, match=r"model.input.crop: 100000 x 100000 pixels are more than limits.pixels"):
        read_job(JOB.format(data="data", output="out"), name="job.yaml", overrides=["model.input.crop=100000"])
