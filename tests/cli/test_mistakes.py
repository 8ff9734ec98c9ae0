"""docs/mistakes.md: each command of its tables is run, and says what the page says that it says."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pcace_dist.cli.main import main
from tests.cli.mistakes import write_folder
from tests.servers import rclone_server

PAGE = (Path(__file__).resolve().parents[2] / "docs/mistakes.md").read_text()
CODE = re.compile(r"(`+)(.+?)\1")
SUBMIT = "ray job submit --working-dir . -- "
RAYS_COPY = Path("session/runtime_resources/working_dir_files/_ray_pkg_1")


@dataclass(frozen=True)
class Mistake:
    """A row of the page. said: what it says, `...` for what is left out."""

    command: str
    said: str
    code: int


def mistakes(page: str) -> Iterator[Mistake]:
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and len(cells) == 4 and cells[2].isdecimal():
            (*_, (_, command)), ((_, said),) = CODE.findall(cells[0]), CODE.findall(cells[1])
            yield Mistake(command, said.strip(), int(cells[2]))


MISTAKES = tuple(mistakes(PAGE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory that the page is about, with keys for a server that has the bucket `images`."""
    folder = tmp_path_factory.mktemp("mistakes")
    (job,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    write_folder(folder, job)
    buckets = tmp_path_factory.mktemp("buckets")
    (buckets / "images").mkdir()
    with pytest.MonkeyPatch.context() as patch, rclone_server(buckets, "key", "secret") as endpoint:
        for name in [name for name in os.environ if name.startswith(("AWS_", "RAY_"))]:
            patch.delenv(name)
        nowhere = str(folder / "no-such-file")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", nowhere)
        patch.setenv("AWS_CONFIG_FILE", nowhere)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("PCACE_EXECUTOR", "inline")
        patch.setattr("sys.path", [*sys.path])
        patch.chdir(folder)
        assert main(["rank", "job.yaml", "--set", "output=runs/done", "--top", "1"]) == 0
        yield folder
        for module in ("nets", "places"):
            sys.modules.pop(module, None)


def run(command: str, patch: pytest.MonkeyPatch) -> int:
    """The exit code of a command line as the page has it: of `pcace`, perhaps in a job of Ray or with variables."""
    if command.startswith(SUBMIT):
        RAYS_COPY.mkdir(parents=True, exist_ok=True)
        shutil.copy("job.yaml", RAYS_COPY)
        patch.chdir(RAYS_COPY)
    words = shlex.split(command.removeprefix(SUBMIT))
    while "=" in words[0]:
        patch.setenv(*words.pop(0).split("=", 1))
    assert words.pop(0) == "pcace"
    try:
        return main(words)
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        return ended.code


def said_by(captured: str, folder: Path) -> str:
    """On one line, with paths below the folder."""
    return " ".join(captured.replace(f"{folder}/", "").split())


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.command)
def test_it_says_what_the_page_says(
    mistake: Mistake, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(mistake.command, monkeypatch) == mistake.code
    captured = capsys.readouterr()
    text = said_by(captured.out + captured.err, folder)
    pattern = ".*".join(re.escape(part) for part in mistake.said.split("..."))
    assert re.search(pattern, text), text
    assert "Traceback" not in text
    if mistake.code == 2 and not captured.out:
        *progress, line = captured.err.splitlines()
        assert re.fullmatch(rf"pcace( [a-z]+)?: {pattern}", said_by(line, folder)), "the last line is the whole of it"
        assert all(before.startswith("pcace: ") for before in progress)


def test_there_are_many_and_each_says_something_else() -> None:
    assert len(MISTAKES) >= 25 and len({mistake.said for mistake in MISTAKES}) == len(MISTAKES)
