"""The README's snippets are run as they stand; the job file in it is a job file."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from pcace_dist.config.job import read_job

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", README, re.S | re.M)
    return [re.sub(rf"^{indent}", "", text, flags=re.M) for indent, text in found]


def test_the_statistic_alone_does_what_the_readme_says() -> None:
    alone = next(code for code in blocks("python") if "maximal_correlation" in code)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(alone, {})
    scores, pearson = re.findall(r"\[(.*?)\]", printed.getvalue())
    assert float(scores.split()[0]) > 0.95
    assert all(float(score) < 0.3 for score in scores.split()[1:])
    assert all(abs(float(value)) < 0.2 for value in pearson.split())


def test_the_job_file_is_one() -> None:
    for text in blocks("yaml"):
        assert read_job(text).output == "runs/resnet18"
