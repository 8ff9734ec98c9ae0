"""`pcace check` on the project's digits: every mistake at once, and what a sample of images says."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from pcace_dist.checks.finding import ERROR, WARNING, Finding
from pcace_dist.cli.main import main
from pcace_dist.commands.check.check import Checked, check
from pcace_dist.config.job import parse_job
from pcace_dist.errors import JobError
from pcace_dist.run.rank import run_job
from tests.digits import digits_job, digits_table, write_digits
from tests.whole_jobs import in_process

__all__ = ["in_process"]
pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder, 400)
    return folder


def job_file(folder: Path, job: dict[str, Any]) -> str:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return str(path)


def checked(data: Path, folder: Path, *, images: int = 100, **changes: Any) -> Checked:
    job = digits_job(data, folder / "run", **changes)
    return check(job_file(folder, job), images=images, out=str(folder / "out"))


def of(checked: Checked, *levels: str) -> dict[str, Finding]:
    return {finding.what: finding for finding in checked.findings if finding.level in levels}


def test_a_good_job_has_no_errors_and_a_contact_sheet(data: Path, tmp_path: Path) -> None:
    result = checked(data, tmp_path)
    assert result.exit_code == 0 and of(result, ERROR, WARNING) == {}
    assert of(result, "note")["accuracy"].figures["accuracy"] > 0.95
    assert of(result, "note")["time"].figures["images"] == 400
    assert result.figures["images"] == 100 and result.figures["layers"] == ["conv1", "conv2"]
    with Image.open(str(result.sheet)) as sheet:
        assert (sheet.format, sheet.width // 8 * 8) == ("PNG", sheet.width)
    assert not (tmp_path / "run").exists(), "a check leaves nothing where the run will be"


def test_images_that_must_not_be_shown_are_in_no_contact_sheet(data: Path, tmp_path: Path) -> None:
    result = checked(data, tmp_path, shown="none", images=20)
    assert result.exit_code == 0 and result.sheet is None and not (tmp_path / "out").exists()


def test_all_mistakes_are_named_at_once(data: Path, tmp_path: Path) -> None:
    job = digits_job(data, tmp_path / "run", layers=["conv1", "conv9"], group_by="town")
    job["dataset"] |= {"label": "labl", "id": "nme", "imag": "x"}
    job["statistics"] |= {"compnents": 3, "knots": 99}
    job["workers"] = {"max": "many"}
    result = check(job_file(tmp_path, job))
    lines = [str(finding) for finding in result.findings]
    expected = ["dataset.imag", "statistics.compnents", "statistics.knots", "workers.max", "'labl'", "'nme'", "'town'"]
    for word in [*expected, "conv9"]:
        assert sum(word in line for line in lines) == 1, (word, lines)
    assert len(lines) == len(expected) + 1 and result.exit_code == 2 and result.sheet is None


def test_the_model_is_judged_without_the_data(tmp_path: Path) -> None:
    job = digits_job(tmp_path / "nowhere", tmp_path / "run", layers=["conv9"])
    lines = [str(finding) for finding in check(job_file(tmp_path, job)).findings]
    assert any("no such file or folder" in line for line in lines) and any("conv9" in line for line in lines)


def test_a_mapping_that_is_wrong_is_named_whole(data: Path, tmp_path: Path) -> None:
    job = digits_job(data, tmp_path / "run", target={"logit": "label"})
    job["dataset"]["label"] = None
    [finding] = [found for found in check(job_file(tmp_path, job)).findings if found.level == "error"]
    assert finding.what == "target {logit: label}" and finding.evidence.startswith("needs dataset.label")


def test_missing_keys_are_all_named(tmp_path: Path) -> None:
    lines = [
        str(finding) for finding in check(job_file(tmp_path, {"dataset": {}, "statistics": {"knots": 1}})).findings
    ]
    for key in ("dataset.path", "model", "layers", "target", "output", "statistics.knots"):
        assert any(key in line for line in lines), (key, lines)


def test_what_only_rows_show_is_an_error_too(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "beyond"
    write_digits(folder, 100, files=1)
    table = pq.read_table(folder)
    labels = pa.array([label + 5 for label in table["label"].to_pylist()])
    pq.write_table(table.set_column(table.schema.get_field_index("label"), "label", labels), folder / "a.parquet")
    (folder / "part-00000.parquet").unlink()
    result = checked(folder, tmp_path)
    assert result.exit_code == 2 and "beyond the model's 10 outputs" in str(result.findings[0])


def test_another_normalisation_is_found(data: Path, tmp_path: Path) -> None:
    job = digits_job(data, tmp_path / "run")
    job["model"]["input"] |= {"mean": [33.0], "std": [78.0]}
    warnings = [f for f in check(job_file(tmp_path, job), images=100).findings if f.level == WARNING]
    assert {finding.what for finding in warnings} == {"model.input", "accuracy"}
    assert any("mean: [0.129], std: [0.306]" in finding.write for finding in warnings)
    assert any(finding.figures.get("then", 0) > 0.9 for finding in warnings), "another input was tried and is right"


def test_groups_that_are_too_small_say_what_would_do(data: Path, tmp_path: Path) -> None:
    finding = of(checked(data, tmp_path, group_by="label", statistics={"components": 5}), ERROR)["group_by label"]
    assert "10 of 10 groups have fewer" in finding.evidence and "group_by: null" in finding.write


def test_a_column_that_says_what_belongs_together_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    table = digits_table(0, 60)
    frames = [[_frame(row["bytes"], step) for step in range(4)] for row in table["image"].to_pylist()]
    images = [{"bytes": image, "path": None} for clip in frames for image in clip]
    columns = {"image": images, "label": np.repeat(table["label"].to_numpy(), 4), "clip": np.repeat(np.arange(60), 4)}
    pq.write_table(pa.table(columns), folder / "frames.parquet")
    suspicious = checked(folder, tmp_path, images=240)
    assert "dataset.fold_by" in of(suspicious, WARNING)
    assert any(finding.write.endswith("dataset.fold_by: clip") for finding in suspicious.findings)
    settled = checked(folder, tmp_path, images=240, dataset={"fold_by": "clip"})
    assert "dataset.fold_by" not in of(settled, WARNING)


def _frame(image: bytes, step: int) -> bytes:
    """The digit, a little darker with each step."""
    pixels = np.array(Image.open(io.BytesIO(image))) * (1 - step / 20)
    data = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(data, "PNG")
    return data.getvalue()


def test_a_run_of_the_job_is_no_mistake_and_another_job_is(data: Path, tmp_path: Path) -> None:
    job = digits_job(data, tmp_path / "run")
    assert run_job(parse_job(job)) == 0
    assert check(job_file(tmp_path, job), images=60).exit_code == 0
    other = check(job_file(tmp_path, job), ["statistics.knots=5"], images=60)
    (error,) = (finding for finding in other.findings if finding.level == ERROR)
    assert other.exit_code == 2 and error.what.startswith("output") and "statistics.knots" in str(error)
    assert of(other, "note"), "the rest is judged all the same"


def test_the_command_prints_findings_and_json(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = job_file(tmp_path, digits_job(data, tmp_path / "run"))
    assert main(["check", job, "--images", "60"]) == 0
    text = capsys.readouterr().out
    assert "0 errors, 0 warnings: `pcace rank` would take this job" in text
    assert all(len(line) <= 100 for line in text.splitlines()) and Path("job-check/contact-sheet.png").exists()
    assert main(["check", job, "--images", "60", "--json", "--set", "layers=conv9"]) == 2
    printed = json.loads(capsys.readouterr().out)
    assert printed["exit_code"] == 2 and printed["findings"][0]["level"] == "error"


def test_a_file_that_is_no_job_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="cannot read the job file"):
        check(str(tmp_path / "none.yaml"))
