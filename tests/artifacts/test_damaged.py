"""Files of a finished run that were damaged: no reader shows other numbers or ends in a traceback, and the same `rank`
writes anew what can be written anew."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pcace_dist.analysis.compare import compare_runs
from pcace_dist.analysis.console import print_history
from pcace_dist.analysis.history import read_history
from pcace_dist.artifacts import checked
from pcace_dist.artifacts.checked import Damaged
from pcace_dist.artifacts.run import open_run
from pcace_dist.cli.main import main
from pcace_dist.config.job import Job, parse_job
from pcace_dist.errors import OutputError, PcaceError
from pcace_dist.ledger.ledger import IllegalHistory, Record
from pcace_dist.reporting.source import open_report_source
from pcace_dist.run.rank import run_job
from pcace_dist.run.status import status_of
from pcace_dist.storage.files import Storage
from pcace_dist.storage.store import open_store
from tests.before import record_before
from tests.planted import write_planted
from tests.whole_jobs import jobs_without_ray

RUN = "runs/2026-01-01-abcdef012345"
OTHERS = (b"null", b"[]", b"3", b'"x"', b"{}", b"[[[[", b"1e400", b"NaN", b"[" * 100_000, b"\xff\xfe", b"{")
VALUES: tuple[Any, ...] = (None, [], {}, "x", -1, 0, 1e300, True, [None], {"x": None}, 10**30)
PUBLISHED = (
    "rankings.parquet",
    "rankings_across_groups.parquet",
    "jackknife.parquet",
    "bad_rows.parquet",
    "classes.parquet",
    "transforms.parquet",
    "exemplars.parquet",
    "sample.parquet",
    "codes/index.json",
    "summary.json",
    "job.yaml",
)


@dataclass(frozen=True)
class Made:
    """A schedule's output with one finished run, its files, and what a reader must see."""

    output: Path
    job: Job
    files: dict[str, bytes]
    ranking: pa.Table

    @property
    def run(self) -> Path:
        return self.output / RUN

    def restore(self) -> None:
        """As it was, whatever has been done to it."""
        for path in sorted(self.output.rglob("*"), reverse=True):
            name = path.relative_to(self.output).as_posix()
            if path.is_dir() and (name in self.files or not any(path.iterdir())):
                shutil.rmtree(path)
            elif path.is_file() and name not in self.files:
                path.unlink()
        for name, data in self.files.items():
            path = self.output / name
            if not path.is_file() or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("damaged")
    output = folder / "weekly"
    write_planted(folder / "data", 240, shards=2)
    job = parse_job(
        {
            "dataset": {"path": str(folder / "data"), "label": "label", "classes": ["even", "odd"]},
            "model": {"factory": "tests.planted:planted_network", "weights": "random", "input": {"mode": "L"}},
            "layers": "all",
            "target": [{"column": "exponential"}, {"output": 0}],
            "group_by": "label",
            "statistics": {"components": 1, "pilot": 128, "keep_codes": True},
            "workers": {"max": 1},
            "output": str(output / RUN),
        }
    )
    with jobs_without_ray():
        assert run_job(job) == 0
        entry = {"n": 1, "run": RUN, "published": "2026-01-01", "why": "first run", "fingerprint": "f"}
        entry |= {"weights": "w", "data": "d", "images": 240, "exit_code": 0}
        (output / "history").mkdir()
        (output / "history" / "00000001.json").write_text(json.dumps(entry))
        (output / "latest.json").write_text(json.dumps({"run": RUN}))
        files = {p.relative_to(output).as_posix(): p.read_bytes() for p in output.rglob("*") if p.is_file()}
        yield Made(output, job, files, open_run(str(output)).ranking())


@pytest.fixture(autouse=True)
def restored(made: Made) -> Iterator[None]:
    yield
    made.restore()


# -- single faults


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_done_holds_the_digest_of_every_published_file(made: Made) -> None:
    done = json.loads(sorted((made.run / "ledger").iterdir())[-1].read_bytes())["body"]
    assert set(done["files"]) == set(PUBLISHED)
    for name, digest in done["files"].items():
        assert checked.Digest.from_json(digest) == checked.Digest.of((made.run / name).read_bytes())


def test_no_flipped_bit_of_the_rankings_is_read(made: Made) -> None:
    path = made.run / "rankings.parquet"
    for bit in random.Random(1).sample(range(8 * path.stat().st_size), 50):
        flip(path, bit)
        with pytest.raises(Damaged, match=r"rankings\.parquet: is not what the run wrote; `pcace rank`"):
            open_run(str(made.output)).ranking()
        flip(path, bit)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_same_rank_writes_a_damaged_file_anew_from_the_attempts(made: Made, name: str) -> None:
    told: list[str] = []
    flip(made.run / name, 80)
    assert run_job(made.job, tell=told.append) == 0
    assert (made.run / name).read_bytes() == made.files[f"{RUN}/{name}"]
    (made.run / name).unlink()
    assert run_job(made.job, tell=told.append) == 0
    assert (made.run / name).read_bytes() == made.files[f"{RUN}/{name}"]
    assert run_job(made.job, tell=told.append) == 0
    assert [line.partition(", ")[2] for line in told] == [f"{name} written anew from what it recorded"] * 2 + [
        "nothing to do"
    ]


def test_a_result_on_kept_codes_is_written_anew_from_them(made: Made, tmp_path: Path) -> None:
    dataset = {"path": str(made.run), "label": "label"}
    job = {"dataset": dataset, "target": {"column": "square"}, "output": str(tmp_path / "answer")}
    asked = made.job.model_dump(mode="json") | job
    asked["statistics"] |= {"keep_codes": False, "knots": 7}
    assert run_job(parse_job(asked)) == 0
    path = tmp_path / "answer" / "rankings.parquet"
    before = path.read_bytes()
    path.write_bytes(b"")
    assert run_job(parse_job(asked)) == 0
    assert path.read_bytes() == before


def test_with_its_attempts_gone_too_a_damaged_file_is_named(made: Made) -> None:
    (made.run / "rankings.parquet").write_bytes(b"")
    next((made.run / "attempts").glob("*/rows.arrow")).unlink()
    with pytest.raises(OutputError, match=r"attempt e00001-a0001-f\d+ \(rows.arrow is missing\)"):
        run_job(made.job)


def test_a_finished_run_that_is_asked_again_says_so_and_no_time(
    made: Made, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "job.yaml").write_text(made.job.to_yaml())
    assert main(["rank", str(tmp_path / "job.yaml")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{made.run}: already finished on 20") and ", nothing to do\n" in printed
    assert " images in " not in printed and "240 images, 0 bad rows" in printed


def test_a_damaged_plan_is_not_read_by_anybody(made: Made, tmp_path: Path) -> None:
    plan = next(path for path in (made.run / "plan").iterdir() if "check" not in path.name)
    flip(plan, 8 * (plan.stat().st_size - 3))
    given = made.job.model_dump(mode="json") | {"output": str(tmp_path / "given")}
    given["statistics"] = {"plan": str(made.run)}
    codes = given | {"dataset": {"path": str(made.run), "label": "label"}, "statistics": {"components": 1}}
    for job in (given, codes):
        with pytest.raises(OutputError, match=rf"plan/{plan.name}: plan: is not what its name says"):
            run_job(parse_job(job))
    with pytest.raises(PcaceError, match="plan: is not what its name says"):
        open_report_source(str(made.output))
    assert not (tmp_path / "given").exists()


def test_a_damaged_row_of_the_admission_is_not_read(made: Made) -> None:
    next((made.run / "plan").glob("*.check.*")).write_bytes(b"")
    sorted((made.run / "ledger").iterdir())[-1].unlink()
    with pytest.raises(OutputError, match=r"check\.safetensors: is not what this run recorded"):
        run_job(made.job)


def test_counts_that_do_not_fit_the_units_name_the_record(made: Made) -> None:
    for unit_rows in (19_000_000_000, -1, 3):
        record = rewritten(made, "accept", partial(_count_rows, rows=unit_rows))
        with pytest.raises(IllegalHistory, match=rf"{record}\.json \(accept\): attempt \S+ counts {unit_rows} "):
            status_of(str(made.run))
        made.restore()


def test_counts_that_do_not_fit_the_attempts_are_not_published(made: Made) -> None:
    sorted((made.run / "ledger").iterdir())[-1].unlink()
    rewritten(made, "accept", partial(_count_rows, rows=100, bad=20))
    with pytest.raises(OutputError, match="count 220 images, the files of their attempts hold 240"):
        run_job(made.job)


def _count_rows(body: dict[str, Any], **counts: int) -> None:
    next(iter(body["receipts"][0]["units"].values())).update(counts)


def rewritten(made: Made, kind: str, change: Callable[[dict[str, Any]], object]) -> str:
    """Change the body of the first record of a kind, with a digest that fits; the record's number."""
    for path in sorted((made.run / "ledger").iterdir()):
        record = Record.from_bytes(path.read_bytes(), int(path.stem))
        if record.kind == kind:
            change(record.body)
            path.write_bytes(record.to_bytes())
            return path.stem
    raise AssertionError(kind)


def test_a_changed_record_is_named(made: Made) -> None:
    path = made.run / "ledger" / "00000003.json"
    path.write_bytes(path.read_bytes().replace(b'"bad":0', b'"bad":1', 1))
    with pytest.raises(IllegalHistory, match=r"00000003\.json: was changed since it was written"):
        run_job(made.job)


def test_a_lost_record_in_the_middle_is_named(made: Made) -> None:
    (made.run / "ledger" / "00000003.json").unlink()
    with pytest.raises(IllegalHistory, match=r"00000003\.json: is missing; restore it"):
        run_job(made.job)


def test_a_driver_whose_records_were_removed_does_not_end_well(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from pcace_dist.run.model_run import ModelRun

    def removed(self: ModelRun, *args: Any) -> None:
        shutil.rmtree(made.run / "ledger")

    sorted((made.run / "ledger").iterdir())[-1].unlink()
    monkeypatch.setattr(ModelRun, "_publish_more", removed)
    with pytest.raises(IllegalHistory, match=r"00000001\.json: is missing"):
        run_job(made.job)
    assert not list((made.run / "ledger").glob("*.json")), "no done"


def test_a_run_without_done_has_no_result(made: Made) -> None:
    sorted((made.run / "ledger").iterdir())[-1].unlink()
    for read in (lambda: open_run(str(made.output)).ranking(), lambda: open_report_source(str(made.run))):
        with pytest.raises(PcaceError, match="its ledger does not say that it is done"):
            read()


def test_summary_and_job_are_read_from_the_ledger(made: Made) -> None:
    for name in ("summary.json", "job.yaml"):
        (made.run / name).write_bytes(b"[[[[")
    run = open_run(str(made.run))
    assert run.summary["images"] == 240 and run.job == made.job
    assert "progress: 240 of 240 images" in "\n".join(status_of(str(made.run)).lines())


def test_a_job_file_that_was_edited_stays_as_it_is(made: Made) -> None:
    """Where the data have moved, the report and evaluate are told so there."""
    edited = (made.run / "job.yaml").read_text().replace("/data", "/moved")
    (made.run / "job.yaml").write_text(edited)
    assert run_job(made.job) == 0
    assert (made.run / "job.yaml").read_text() == edited == open_run(str(made.run)).job_text()


def test_a_server_that_is_down_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PCACE_STORAGE_PATIENCE", "0.2")
    for name, value in {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    assert main(["show", "s3://bucket/run"]) == 5
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "s3://bucket/run" in lines[0]


def test_a_large_file_is_checked_in_the_chunks_that_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked, "CHUNK", 50_000)
    path = tmp_path / "x.parquet"
    keys = [row // 5000 for row in range(50_000)]
    table = pa.table({"key": keys, "value": random.Random(0).sample(range(10**15), 50_000)})
    pq.write_table(table, path, row_group_size=5000)
    digest = checked.Digest.of(path.read_bytes())
    assert len(digest.chunks) > 8
    flip(path, 8 * 5)  # in the first row group
    storage, wanted = Storage({}), [("key", "==", 9)]
    assert checked.read_parquet(storage, str(path), digest, filters=wanted).equals(table.slice(45_000))
    with pytest.raises(Damaged, match="is not what the run wrote"):
        checked.read_parquet(storage, str(path), digest)


# -- any fault


def mutated(data: bytes, name: str, chance: random.Random) -> bytes | None:
    """Other content for a file; None to delete it."""
    kind = chance.choice(("truncate", "empty", "flip", "other", "delete", "leaf", "leaf"))
    if kind == "truncate":
        return data[: chance.randrange(len(data))] if data else b"x"
    if kind == "flip" and data:
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 3))):
            changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(changed)
    if kind == "leaf" and name.endswith(".json"):
        return with_other_leaf(data, name, chance)
    return None if kind == "delete" else b"" if kind == "empty" else chance.choice(OTHERS)


def with_other_leaf(data: bytes, name: str, chance: random.Random) -> bytes:
    """One value of a JSON file is another's; a record of a ledger gets a digest that fits."""
    value = json.loads(data)
    places = list(leaves(value))
    holder, key = chance.choice(places)
    if chance.random() < 0.2 and isinstance(holder, dict):
        del holder[key]
    else:
        holder[key] = chance.choice(VALUES)
    fields = ("n", "kind", "epoch", "nonce", "time", "body")
    if "/ledger/" in name and all(field in value for field in fields):
        return Record(*(value[field] for field in fields)).to_bytes()
    return json.dumps(value).encode()


def leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON value, as its holder and the key in it."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from leaves(inner)


def readers(made: Made) -> dict[str, Callable[[], pa.Table | None]]:
    """What people do with a run; the ranking where it is read."""
    output = str(made.output)

    def compared() -> None:
        run = open_run(output)
        compare_runs(run, run)

    def ranked() -> pa.Table:
        run_job(made.job)
        return open_run(output).ranking()

    return {
        "show": lambda: open_run(output).ranking(),
        "across": lambda: print(open_run(output).across_groups(top=3)),
        "bad rows": lambda: print(open_run(output).bad_rows()),
        "status": lambda: print(*status_of(str(made.run)).lines(), sep="\n"),
        "history": lambda: print_history(read_history(output)),
        "compare": compared,
        "report": lambda: open_report_source(output).ranking.table,
        "rank": ranked,
    }


def fuzz(made: Made, tries: int, seed: int, *, same: bool = True) -> None:
    """same: what is read must be what was published."""
    chance = random.Random(seed)
    names = sorted(name for name in made.files if not os.path.basename(name).startswith("."))
    for number in range(tries):
        name = chance.choice(names)
        path, data = made.output / name, made.files[name]
        if chance.random() < 0.1:
            path.unlink()
            path.mkdir()
            said = "a folder"
        else:
            content = mutated(data, name, chance)
            path.unlink() if content is None else path.write_bytes(content)
            said = "deleted" if content is None else repr(content[:80])
        everything = readers(made)
        for reader in chance.sample(sorted(everything), 2):
            try:
                table = everything[reader]()
            except PcaceError as error:
                assert error.exit_code in (1, 2) and "\n" not in str(error), (number, name, said, reader)
            except Exception as error:
                raise AssertionError(f"try {number}: {name} is {said}: {reader}: {error!r}") from error
            else:
                assert not same or table is None or table.equals(made.ranking), (
                    f"try {number}: {name} is {said}: {reader}"
                )
        made.restore()


def test_no_damage_to_any_file_shows_other_numbers_or_a_traceback(made: Made) -> None:
    fuzz(made, 200, seed=1)


@pytest.mark.faults
def test_no_damage_in_many_tries_shows_other_numbers_or_a_traceback(made: Made) -> None:
    fuzz(made, 2000, seed=2)


@pytest.fixture
def old(made: Made) -> Made:
    """The same as version 0.1.0 left it: no digests."""
    files = {name: record_before(data) if "/ledger/" in name else data for name, data in made.files.items()}
    before = replace(made, files=files)
    before.restore()
    return before


def test_a_run_without_digests_is_read_as_it_is(old: Made) -> None:
    for _ in range(2):
        assert open_run(str(old.output)).ranking().equals(old.ranking)
        assert run_job(old.job) == 0
    (old.run / "summary.json").write_bytes(b"[[[[")
    assert run_job(old.job) == 0
    assert (old.run / "summary.json").read_bytes() == old.files[f"{RUN}/summary.json"]


@pytest.mark.faults
def test_no_damage_to_a_run_without_digests_ends_in_a_traceback(old: Made) -> None:
    fuzz(old, 1000, seed=3, same=False)


# -- where files may lie


@pytest.mark.parametrize(
    "path, output, refused",
    [
        ("data", "data/run", True),
        ("data", "data", True),
        ("data", "data/_run", False),
        ("data/*.parquet", "data/run", False),
        ("data/*", "data/run", True),
        ("data/**/*.parquet", "data/run", True),
        ("run/data", "run", True),
        ("run/data/a.parquet", "run", True),
        ("data", "data-run", False),
        ("linked", "data/run", True),
    ],
)
def test_output_and_data_set_must_not_lie_in_one_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, output: str, refused: bool
) -> None:
    from pcace_dist.run.rank import _refuse_overlap

    (tmp_path / "data").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    job = parse_job(
        {
            "dataset": {"path": path},
            "model": {"factory": "tests.planted:planted_network", "weights": "random"},
            "layers": "all",
            "target": {"output": 0},
            "output": output,
        }
    )
    if refused:
        with pytest.raises(OutputError, match=f"output {output}: .*{path.replace('*', '.')}"):
            _refuse_overlap(job)
    else:
        _refuse_overlap(job)


def test_what_the_store_did_not_make_is_not_discarded(tmp_path: Path) -> None:
    mine = ".tmp-12-" + "0" * 32
    for name in (mine, ".tmp-notes", ".lock-latest.json", f"elsewhere/{mine}", "a/.probe-mine"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    open_store(str(tmp_path)).discard_unfinished(["", "a"])
    assert not (tmp_path / mine).exists()
    assert (tmp_path / "elsewhere" / mine).exists(), "another run's, perhaps of one that is writing it"
    assert {path.name for path in tmp_path.iterdir()} == {".tmp-notes", ".lock-latest.json", "elsewhere", "a"}
    assert (tmp_path / "a" / ".probe-mine").exists()
