"""Installed as people install it: the wheel with pip, the sources with pip, pipx, and the `.venv` of `make setup`.

In clean environments, with the pinned versions, in a folder that is not the project's: the command, the module, the
MNIST job, the report without and with its extra, and the first hour with six models.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import util
from pathlib import Path

import pytest
import yaml

from pcace_dist import __version__
from pcace_dist.errors import NotInstalled, UserError, install_command, packages_of
from tests.install.clean import PINS, PROJECT, ROOT, environment, ran, wheel

EXTRAS = set(PROJECT["optional-dependencies"])
TEXTS = ("*.py", "*.md", "*.yaml", "*.toml", "*.txt", "*.sh", "Makefile", "Dockerfile")


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "--", *TEXTS], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).exists()]


# -- what is named is there


def named_extras(text: str) -> set[str]:
    """Extras in a command (.[a,b], NAME.whl[a], pcace-dist[a]) or in a sentence (extra `a`)."""
    bracketed = re.findall(r"(?:pcace[-_]dist|[.]whl['\"]?|(?<=[\s'\"])[.])\[([a-z]+(?:,[a-z]+)*)\]", text)
    return {name for names in bracketed for name in names.split(",")} | set(re.findall(r"[Ee]xtra `+([a-z]+)`", text))


def test_every_extra_that_is_named_is_there() -> None:
    named = {name: path for path in tracked() if path != Path(__file__) for name in named_extras(path.read_text())}
    assert {"report", "test", "imagenet"} <= set(named)
    assert not {name: path for name, path in named.items() if name not in EXTRAS}


def test_nothing_says_to_install_from_an_index_that_has_no_such_package() -> None:
    wrong = re.compile(r"pip install [^\n`]*['\" ]pcace[-_]dist(?!\S*\.whl|_dist-\*)")
    assert not [path for path in tracked() if path != Path(__file__) and wrong.search(path.read_text())]


def test_the_packages_of_an_extra_are_those_of_pyproject() -> None:
    for extra in ("report", "pandas"):
        names = [re.split(r"[<>=\[ ]", line)[0] for line in PROJECT["optional-dependencies"][extra]]
        assert [re.split(r"[<>=\[ ]", line)[0] for line in packages_of(extra)] == names
    assert packages_of("nowhere") == []


def test_a_missing_extra_is_a_line_with_the_command_for_this_python() -> None:
    line = str(NotInstalled("pcace report", "report"))
    assert line.startswith("pcace report needs packages of the extra `report`; install them: ")
    assert f"{sys.executable} -m pip install 'captum" in line


def test_where_there_is_no_pip_the_command_is_of_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert install_command("pandas").startswith(f"uv pip install --python {sys.executable} 'pandas")


def test_without_metadata_the_sources_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def away(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", away)
    with pytest.raises(UserError, match=r"in its folder: pip install '\.\[report\]'"):
        packages_of("report")


def test_the_report_says_so_before_it_reads_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    from pcace_dist.reporting.build import build_report
    from pcace_dist.reporting.options import ReportOptions

    found = util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "plotly" else found(name))
    with pytest.raises(NotInstalled, match="plotly"):
        build_report("no/such/run", ReportOptions())


def test_what_names_the_version_names_this_one() -> None:
    """pcace_dist.__version__ is the one place; the changelog, the citation and the image's name follow it."""
    released = re.findall(r"^## (\d\S+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert released[0] == (__version__, str(citation["date-released"]))
    assert citation["version"] == __version__
    for name in ("Dockerfile", "cluster/README.md", "cluster/kubernetes/settings/settings.yaml"):
        assert set(re.findall(r"/pcace-dist:([\d.]+)-", (ROOT / name).read_text())) == {__version__}


# -- installed


def test_the_activated_environment_of_make_setup_has_the_command_in_every_folder(tmp_path: Path) -> None:
    if not (Path(sys.prefix) / "bin" / "activate").exists():
        pytest.skip("this Python is no virtual environment")
    script = f". {sys.prefix}/bin/activate && command -v pcace && pcace --version && python -m pcace_dist --version"
    where, *versions = ran("sh", "-c", script, cwd=tmp_path).splitlines()
    assert Path(where) == Path(sys.prefix) / "bin" / "pcace"
    assert versions == [f"pcace {__version__}"] * 2


def check_commands(where: Path, env: dict[str, str]) -> None:
    """The command, the module's help and the MNIST job, in a folder with the examples alone."""
    assert ran("pcace", cwd=where, env=env).startswith("pcace ranks")
    assert "exit codes:" in ran("pcace", "--help", cwd=where, env=env)
    ranked = ran("pcace", "rank", "examples/mnist/job.yaml", "--top", "1", cwd=where, env=env)
    assert "5,000 images" in ranked
    assert "logit:label" in ran("pcace", "show", "runs/mnist", "--group", "3", cwd=where, env=env)


def check_first_hour(python: Path, folder: Path, where: Path) -> None:
    """tests/examples/test_newcomer.py in the environment of `python`, beside the examples and without the sources."""
    shutil.copytree(folder / "sources" / "tests", where / "tests")
    shutil.copy(folder / "sources" / "pyproject.toml", where)  # pytest's settings
    packages = ["pytest", "pytest-timeout", "scikit-learn", "timm", "transformers"]
    ran(python, "-m", "pip", "install", *PINS, *packages, cwd=where)
    ran(python, "-m", "pytest", "-q", "-x", "-m", "apps", "tests/examples/test_newcomer.py", cwd=where)


@pytest.mark.install
def test_the_wheel_and_the_sources_with_pip(folder: Path) -> None:
    venv, where = folder / "venv", folder / "elsewhere"
    python, env = venv / "bin" / "python", environment(venv / "bin")
    ran(sys.executable, "-m", "venv", venv, cwd=folder)
    ran(python, "-m", "pip", "install", *PINS, wheel(folder), cwd=where)
    ran(python, "-m", "pip", "check", cwd=where)
    check_commands(where, env)
    assert ran(python, "-m", "pcace_dist", "--version", cwd=where) == f"pcace {__version__}\n"

    without = ran("pcace", "report", "runs/mnist", "--no-synthesis", cwd=where, env=env, code=2)
    assert without.count("\n") == 1
    ran("sh", "-c", without.partition("install them: ")[2], cwd=where, env=env)
    assert "report.html" in ran("pcace", "report", "runs/mnist", "--no-synthesis", cwd=where, env=env)
    check_first_hour(python, folder, where)

    ran(python, "-m", "pip", "uninstall", "--yes", "pcace-dist", "captum", "plotly", cwd=where)
    ran(python, "-m", "pip", "install", *PINS, "./sources[report]", cwd=folder)
    assert ran("pcace", "--version", cwd=where, env=env) == f"pcace {__version__}\n"
    assert "report.html" in ran("pcace", "report", "runs/mnist", "--no-synthesis", cwd=where, env=env)
    shutil.rmtree(venv)
    shutil.rmtree(where / "runs")


def names_in(archive: str) -> set[str]:
    """Files of a wheel or a source distribution, below its top folder."""
    if archive.endswith(".whl"):
        return set(zipfile.ZipFile(archive).namelist())
    with tarfile.open(archive) as opened:
        return {one.name.partition("/")[2] for one in opened.getmembers() if one.isfile()}


@pytest.mark.install
def test_what_is_given_to_an_index_has_the_package_and_no_tests(folder: Path) -> None:
    built = folder / "built"
    ran(sys.executable, "-m", "build", "--outdir", built, "./sources", cwd=folder)
    archives = sorted(map(str, built.iterdir()))
    assert [Path(one).name for one in archives] == [
        f"pcace_dist-{__version__}-py3-none-any.whl",
        f"pcace_dist-{__version__}.tar.gz",
    ]
    ran(sys.executable, "-m", "twine", "check", "--strict", *archives, cwd=folder)
    package = {str(one.relative_to(ROOT)) for one in tracked() if one.is_relative_to(ROOT / "pcace_dist")}
    for archive in archives:
        names = names_in(archive)
        assert package <= names and {"pcace_dist/py.typed", "pcace_dist/reporting/assets/report.css"} <= names
        assert any(name.endswith("LICENSE") for name in names)
        assert not [name for name in names if name.startswith(("tests/", "examples/", "site/"))]
    assert {"CHANGELOG.md", "CITATION.cff", "pyproject.toml"} <= names_in(archives[1])


@pytest.mark.install
def test_pipx(folder: Path) -> None:
    home, where = folder / "pipx", folder / "elsewhere"
    env = environment(home / "bin") | {"PIPX_HOME": str(home), "PIPX_BIN_DIR": str(home / "bin")}
    pipx = [sys.executable, "-m", "pipx", "install", "--pip-args", shlex.join(PINS)]
    ran(*pipx, f"{wheel(folder)}[report]", cwd=where, env=env)
    check_commands(where, env)
    assert "report.html" in ran("pcace", "report", "runs/mnist", "--no-synthesis", cwd=where, env=env)
