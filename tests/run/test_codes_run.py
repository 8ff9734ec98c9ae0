"""Runs on kept codes: the same as the model's run wherever both can answer, and as arithmetic where only codes can."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pcace_dist.analysis.compare import compare_runs
from pcace_dist.artifacts.attempt import blocks_of
from pcace_dist.artifacts.codes import stored
from pcace_dist.artifacts.codes.stored import open_codes
from pcace_dist.artifacts.plan_store import plan_of_run
from pcace_dist.artifacts.run import Run, open_run
from pcace_dist.cli.main import main
from pcace_dist.config.job import parse_job
from pcace_dist.datasets.stored_parquet import StoredParquet
from pcace_dist.errors import Stopped, UserError
from pcace_dist.executors import ray_session
from pcace_dist.executors.choice import ExecutorKind
from pcace_dist.ledger.ledger import Ledger
from pcace_dist.run import codes_run
from pcace_dist.run.codes_run import CodesRun, prepare_from_codes
from pcace_dist.run.rank import run_job
from pcace_dist.statistics import lanes
from pcace_dist.statistics.basis import choose_knots
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.plan import Plan, make_target_plan, robust_spread
from pcace_dist.statistics.score import score_channels
from pcace_dist.storage.files import Storage, StoredFile
from tests.digits import bytes_of, digits_job, digits_table, ranked, records, write_digits
from tests.statistics.mnist import activations

ROWS = 600
CODES = "codes"
TARGETS = [{"logit": "label"}, {"logit": 3}, {"column": "ink"}]

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture(scope="module")
def base(in_process: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data` and `codes`, a run that has kept its codes in several attempts."""
    folder = tmp_path_factory.mktemp("kept")
    write_digits(folder / "data", ROWS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PCACE_FLUSH_SECONDS", "0.001")
        ranked(kept_job(folder))
    return folder


def kept_job(folder: Path, name: str = CODES, **changes: Any) -> dict[str, Any]:
    statistics = {"keep_codes": True} | changes.pop("statistics", {})
    changes = {"target": TARGETS, "group_by": "place"} | changes
    return digits_job(folder / "data", folder / name, statistics=statistics, **changes)


def asked(base: Path, output: Path, **changes: Any) -> Run:
    """The question put to the kept codes."""
    return ranked(digits_job(base / CODES, output / "codes-answer", **changes))


def direct(base: Path, output: Path, *, plan: Path | None = None, data: Path | None = None, **changes: Any) -> Run:
    """The same question put to the model, with the plan of a run on the codes."""
    statistics = changes.pop("statistics", {}) | {"plan": str(plan or base / CODES)}
    return ranked(digits_job(data or base / "data", output / "direct", statistics=statistics, **changes))


def same(answer: Run, by_model: Run) -> None:
    """The same ranking. Axes of logit:3 go by place: the model's run has its effects only where it ranks by place."""
    one, other = answer.ranking(), by_model.ranking()
    apart = answer.job.group_by != "place"
    lost = [apart and target == "logit:3" for target in one["target"].to_pylist()]
    if any(lost):
        effects = {name for name in one.schema.names if name.startswith("effect")}
        assert set(other.filter(pa.array(lost))["effect_status"].to_pylist()) == {"off"}
        assert one.drop_columns(list(effects)).equals(other.drop_columns(list(effects)))
        one, other = (table.filter(pa.array([not each for each in lost])) for table in (one, other))
    assert one.equals(other)


def test_the_same_question_has_the_same_bytes(base: Path, tmp_path: Path) -> None:
    answer = asked(base, tmp_path, target=TARGETS, group_by="place")
    for name in ("rankings.parquet", "jackknife.parquet", "rankings_across_groups.parquet", "bad_rows.parquet"):
        assert bytes_of(answer, name) == bytes_of(base / CODES, name), name
    assert len(records(base / CODES, "accept")) > 2
    assert answer.summary["images"] == ROWS


@pytest.mark.jobs
def test_a_large_jobs_codes_and_plan_are_solved_as_it_was(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In lanes, which give a little other numbers than LAPACK; under a plan of before, in LAPACK."""
    monkeypatch.setattr(lanes, "FEWEST_VALUES", 1)
    (tmp_path / "data").symlink_to(base / "data")
    large = ranked(kept_job(tmp_path))
    assert plan_of_run(str(tmp_path / CODES), Storage({})).facts["solver"] == "lanes"
    answer = asked(tmp_path, tmp_path, target=TARGETS, group_by="place")
    before = direct(base, tmp_path, target=TARGETS, group_by="place")
    for name in ("rankings.parquet", "jackknife.parquet", "rankings_across_groups.parquet"):
        assert bytes_of(answer, name) == bytes_of(large, name), name
        assert bytes_of(before, name) == bytes_of(base / CODES, name), name
    one, other = (np.array(run.ranking()["score_squared"]) for run in (large, before))
    assert not np.array_equal(one, other, equal_nan=True)
    np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    "question",
    [
        {"group_by": "label"},
        {"group_by": "weight"},
        {"group_by": "odd"},
        {"dataset": {"filter": {"label": [1, 2, 3], "odd": True}}},
        {"dataset": {"filter": {"place": "north"}}, "group_by": "odd"},
        {"dataset": {"fold_by": "writer"}},
        {"dataset": {"fold_by": "place"}, "group_by": "place"},
        {"layers": ["conv2"]},
        {"target": {"logit": 3}},
        {"target": [{"column": "ink"}, {"logit": "label"}]},
    ],
    ids=str,
)
def test_another_question_is_answered_as_by_the_model(base: Path, tmp_path: Path, question: dict[str, Any]) -> None:
    question = {"target": TARGETS} | question
    same(asked(base, tmp_path, **question), direct(base, tmp_path, **question))


@pytest.mark.parametrize("settings", [{"folds": 8}, {"components": 1}, {"penalty": 1.0}], ids=str)
def test_other_settings_are_the_plan_of_a_direct_run(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    answer = asked(base, tmp_path, target=TARGETS, statistics=settings)
    same(answer, direct(base, tmp_path, plan=Path(answer.path), target=TARGETS, statistics=settings))
    assert bytes_of(answer) != bytes_of(asked(base, tmp_path / "as-it-was", target=TARGETS))


def test_a_new_target_column_is_ranked_as_by_the_model(base: Path, tmp_path: Path) -> None:
    question: dict[str, Any] = {
        "target": [{"column": "half"}, {"column": "ink"}, {"column": "odd"}],
        "group_by": "place",
    }
    answer = asked(base, tmp_path, **question)
    assert bytes_of(answer) == bytes_of(direct(base, tmp_path, plan=Path(answer.path), **question))


def test_rows_whose_new_target_is_missing_are_set_aside(base: Path, tmp_path: Path) -> None:
    """weight is null in twelve rows and NaN in as many."""
    question: dict[str, Any] = {"target": {"column": "weight"}, "max_bad_rows": 1.0}
    answer = asked(base, tmp_path, **question)
    assert answer.summary["bad_rows"] == 24 and answer.summary["images"] == ROWS - 24
    same = direct(base, tmp_path, plan=Path(answer.path), **question)
    assert bytes_of(answer) == bytes_of(same)
    places = ["file", "row_group", "row", "id", "stage"]
    assert answer.bad_rows().select(places).equals(same.bad_rows().select(places))
    strict = digits_job(base / CODES, tmp_path / "strict", target={"column": "weight"})
    assert run_job(parse_job(strict)) == 4


# -- columns that are joined


@pytest.fixture(scope="module")
def named(in_process: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `base`, with ids; and `data-with` with a column `later`, of which a third of the rows has none."""
    folder = tmp_path_factory.mktemp("named")
    write_digits(folder / "data", ROWS)
    ranked(kept_job(folder, dataset={"id": "name"}))
    table = digits_table(0, ROWS)
    number = np.arange(ROWS)
    later = [None if n % 6 == 0 else float("nan") if n % 6 == 1 else float(np.cos(n) + n % 10) for n in number]
    table = table.append_column("later", pa.array(later)).append_column("when", pa.array(number % 3 % 2))
    (folder / "data-with").mkdir()
    pq.write_table(table, folder / "data-with" / "part-00000.parquet", row_group_size=100)
    random = np.random.default_rng(0)
    some = table.select(["name", "later", "when"]).take(
        np.flatnonzero(number % 6 > 0)[random.permutation(ROWS * 5 // 6)]
    )
    stranger = pa.table({"name": ["nobody"], "later": [1.0], "when": [1]}, schema=some.schema)
    (folder / "joined").mkdir()
    pq.write_table(pa.concat_tables([stranger, some[:200]]), folder / "joined" / "a.parquet")
    pq.write_table(some[200:], folder / "joined" / "b.parquet")
    return folder


def test_a_joined_column_is_ranked_as_one_of_the_data_set(named: Path, tmp_path: Path) -> None:
    question = {"target": [{"column": "later"}, {"logit": 3}], "group_by": "when", "max_bad_rows": 1.0}
    dataset = {"id": "name", "filter": {"odd": True}}
    answer = asked(named, tmp_path, dataset=dataset | {"join": str(named / "joined")}, **question)
    same = direct(named, tmp_path, plan=Path(answer.path), data=named / "data-with", dataset=dataset, **question)
    assert answer.summary["bad_rows"] == same.summary["bad_rows"] > 0
    assert answer.bad_rows()["id"].to_pylist() and set(answer.bad_rows()["id"].to_pylist()) == set(
        same.bad_rows()["id"].to_pylist()
    )
    mine, theirs = ([row for row in run.ranking().to_pylist() if row["group"] is not None] for run in (answer, same))
    assert {row["effect_status"] for row in theirs} <= {"off", "not_of_the_model"}  # its axes go by another column
    assert theirs and [_without_effects(row) for row in mine] == [_without_effects(row) for row in theirs]


def _without_effects(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("effect")}


def test_ids_that_repeat_are_refused_and_the_join_needs_its_key(named: Path, tmp_path: Path) -> None:
    table = pq.read_table(named / "joined" / "b.parquet")
    pq.write_table(pa.concat_tables([table, table[:1]]), tmp_path / "twice.parquet")
    question = {"target": {"column": "later"}, "max_bad_rows": 1.0}
    with pytest.raises(UserError, match=r"^dataset\.join: .*twice\.parquet has the same name more than once"):
        asked(named, tmp_path, dataset={"id": "name", "join": str(tmp_path / "twice.parquet")}, **question)
    with pytest.raises(UserError, match=r"^dataset\.join: no column 'id' in .*twice\.parquet"):
        asked(named, tmp_path, dataset={"join": str(tmp_path / "twice.parquet")}, **question)
    with pytest.raises(UserError, match=r"^dataset\.join: .*nowhere: no such file or folder"):
        asked(named, tmp_path, dataset={"id": "name", "join": str(tmp_path / "nowhere")}, **question)


# -- wrong questions


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (
            {"target": {"logit": 4}},
            r"target logit:4: the kept codes hold logit:label, logit:3, column:ink; others need",
        ),
        ({"target": {"column": "inc"}}, r"target: no column 'inc' beside the kept codes; did you mean 'ink'\?"),
        ({"target": {"column": "place"}}, r"target: column 'place' is string; it must be numeric"),
        ({"group_by": "plaice"}, r"group_by: no column 'plaice' beside the kept codes; did you mean 'place'\?"),
        ({"layers": ["conv7"]}, r"layers: 'conv7' matches none of the layers with kept codes: conv1, conv2"),
        ({"dataset": {"filter": {"zone": 1}}}, r"dataset\.filter: no column 'zone' beside the kept codes"),
        ({"dataset": {"filter": {"label": "one"}}}, r"dataset\.filter\.label: 'one' cannot be compared"),
        ({"dataset": {"filter": {"label": 77}}}, r"dataset\.filter: keeps none of the 600 rows"),
        ({"dataset": {"fold_by": "street"}}, r"dataset\.fold_by: no column 'street'"),
        ({"stop": {"top": 3}}, r"stop: has no meaning for kept codes"),
        ({"extend": "elsewhere"}, r"extend: has no meaning for kept codes"),
        ({"statistics": {"plan": "elsewhere"}}, r"statistics\.plan: has no meaning for kept codes"),
        ({"statistics": {"keep_codes": True}}, r"statistics\.keep_codes: the codes are kept already"),
        ({"statistics": {"components": 3}}, r"statistics\.components 3: the kept codes have 2"),
        ({"statistics": {"estimator": "ace"}}, r"statistics\.estimator ace: needs the maps' components"),
        ({"target": [{"column": "ink"}, {"column": "ink"}]}, r"target: column:ink is named twice"),
    ],
    ids=str,
)
def test_what_the_codes_cannot_answer_is_one_line(
    base: Path, tmp_path: Path, question: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        asked(base, tmp_path, **question)
    assert refused.value.exit_code == 2 and "\n" not in str(refused.value)
    assert not (tmp_path / "codes-answer" / "rankings.parquet").exists()


def test_the_job_file_that_kept_the_codes_asks_again(base: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(json.dumps(kept_job(base)))  # with keep_codes: true
    command = ["rank", str(job), "--from-codes", str(base / CODES), "--set", f"output={tmp_path / 'again'}"]
    assert main(command) == 0
    assert (tmp_path / "again" / "rankings.parquet").read_bytes() == (base / CODES / "rankings.parquet").read_bytes()
    compared = compare_runs(open_run(str(base / CODES)), open_run(str(tmp_path / "again")))
    assert compared.verdict == "same" and "the same data" in compared.notes


def test_few_rankings_need_no_cluster_and_many_are_worth_one(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def local(**changes: Any) -> bool:
        asked = parse_job(digits_job(base / CODES, tmp_path, **changes))
        found = prepare_from_codes(asked)
        assert found is not None
        return found.executor == ExecutorKind.THREADS

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_session, "_runs_here", lambda: False)
    assert local(group_by="label")
    channels = sum(layer.channels for layer in plan_of_run(str(base / CODES), Storage({})).layers)
    monkeypatch.setattr(codes_run, "LOCAL_SCORES", channels)
    assert local(group_by="label"), "two workers, as threads"
    many = {"workers": {"max": codes_run.FEW_WORKERS + 1}}
    assert local(group_by=None, **many), "one ranking"
    assert not local(group_by="label", **many), "one for each label"
    assert not local(group_by="label", workers={"resources": {"spot": 1}})
    assert not local(group_by="label", workers={"min": 2, "cpus": 10_000}), "no room here"
    monkeypatch.setattr(codes_run, "LOCAL_SCORES", 1 << 15)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert not local(group_by=None), "a cluster is named"
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr(ray_session, "_runs_here", lambda: True)
    assert not local(group_by=None), "this process is on Ray"


def test_a_run_without_codes_is_named(base: Path, tmp_path: Path) -> None:
    answer = asked(base, tmp_path)
    with pytest.raises(UserError, match=r"^dataset\.path .*: is a run without kept codes \(codes/index\.json\)"):
        ranked(digits_job(answer.path, tmp_path / "second"))


def test_codes_that_are_damaged_or_gone_are_named(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "copy")
    part = next((tmp_path / "copy" / CODES / "attempts").glob("*/codes.parquet"))
    whole = part.read_bytes()
    group = pq.read_metadata(part).row_group(0)
    page = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema.startswith("codes:conv2"))
    at = page.data_page_offset + page.total_compressed_size // 2
    for damaged in (whole[:-50], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], None):
        part.unlink(missing_ok=True)
        if damaged is not None:
            part.write_bytes(damaged)
        with pytest.raises(UserError, match=r"codes\.parquet") as refused:
            asked(tmp_path / "copy", tmp_path / f"answer-{None if damaged is None else len(damaged)}")
        assert "\n" not in str(refused.value)


def test_each_footer_is_read_once_whatever_the_number_of_blocks(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(file: StoredFile, storage: Storage) -> StoredParquet:
        read.append(file.url)
        return StoredParquet(file, storage)

    monkeypatch.setattr(stored, "StoredParquet", counted)
    for most in (stored.FOOTER_BYTES, 0):
        monkeypatch.setattr(stored, "FOOTER_BYTES", most)
        read.clear()
        codes = open_codes(str(base / CODES), Storage({}))
        assert codes is not None
        blocks, parts = blocks_of(codes.plan), len(codes.index.parts)
        assert codes.read_rows(["fold_key"]).num_rows == ROWS
        assert all(sum(part.rows for part in codes.read_block(block)) == ROWS for block in blocks)
        assert len(read) == (parts if most else 1 + parts * (1 + len(blocks)))
        assert len(set(read)) == parts > 2


# -- interruption


@pytest.mark.parametrize("kind", ["manifest", "accept"])
def test_a_run_that_dies_after_a_record_is_resumed_with_the_same_bytes(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    question = {"target": TARGETS, "group_by": "place"}
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "append", dying_after(kind))
        with pytest.raises(RuntimeError, match="died"):
            asked(base, tmp_path, **question)
    answer = asked(base, tmp_path, **question)
    assert bytes_of(answer) == bytes_of(base / CODES)
    assert len(records(Path(answer.path), "open")) == 2
    assert len(records(Path(answer.path), "manifest")) == 1


def dying_after(kind: str) -> Callable[..., None]:
    append = Ledger.append

    def die(self: Ledger, record_kind: str, body: dict[str, Any]) -> None:
        append(self, record_kind, body)
        if record_kind == kind:
            raise RuntimeError("died")

    return die


def test_a_run_that_was_stopped_goes_on(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: CodesRun, *_: object) -> None:
        raise Stopped("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(CodesRun, "_reduce", stop)
        with pytest.raises(Stopped):
            asked(base, tmp_path, group_by="place", target=TARGETS)
    assert bytes_of(asked(base, tmp_path, group_by="place", target=TARGETS)) == bytes_of(base / CODES)


def test_a_selection_that_is_damaged_is_written_anew(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Ledger.append

    def damage(self: Ledger, record_kind: str, body: dict[str, Any]) -> None:
        append(self, record_kind, body)
        if record_kind == "accept" and not records(tmp_path / "codes-answer", "retract"):
            next((tmp_path / "codes-answer" / "attempts").glob("*/selection.arrow")).write_bytes(b"garbage")

    monkeypatch.setattr(Ledger, "append", damage)
    answer = asked(base, tmp_path, group_by="place", target=TARGETS)
    assert bytes_of(answer) == bytes_of(base / CODES)
    assert len(records(Path(answer.path), "retract")) == 1


def test_codes_that_change_while_a_run_is_away_are_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(base, tmp_path / "copy")
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "append", dying_after("manifest"))
        with pytest.raises(RuntimeError, match="died"):
            asked(tmp_path / "copy", tmp_path)
    index = tmp_path / "copy" / CODES / "codes" / "index.json"
    text = index.read_text()
    first = records(base / CODES, "accept")[0]["receipts"][0]["attempt"]
    index.write_text(text.replace(f'"file": "attempts/{first}', '"file": "attempts/another'))
    with pytest.raises(UserError, match=r"index\.json: is not what the run wrote"):
        asked(tmp_path / "copy", tmp_path)


# -- other knots


@pytest.mark.parametrize("knots_from", ["rows", "group"])
def test_other_knots_are_those_of_the_components_themselves(base: Path, tmp_path: Path, knots_from: str) -> None:
    """17 knots at the quantiles of the rows, or of each group's own: against maps, projected and encoded anew.

    A code has some 249 levels, so knots and positions from codes are off by half a level: 0.01 in the score.
    """
    settings = {"knots": 17, "knots_from": knots_from}
    answer = asked(base, tmp_path, target={"column": "ink"}, group_by="odd", layers=["conv2"], statistics=settings)
    plan = plan_of_run(str(base / CODES), Storage({})).layer("conv2")
    maps = activations(base / "data", "conv2").maps
    components, means = plan.project(maps)
    table = pa.concat_tables(
        pq.read_table(path, columns=["file", "row", "fold_key", "column:ink", "column:odd"])
        for path in (base / CODES / "attempts").glob("*/codes.parquet")
    ).sort_by([("file", "ascending"), ("row", "ascending")])
    folds = torch.from_numpy((table["fold_key"].to_numpy() % np.uint64(16)).astype(np.int64))
    ink, odd = table["column:ink"].to_numpy(), table["column:odd"].to_numpy(zero_copy_only=False)
    for group in (False, True):
        rows = odd == group
        seen = rows if knots_from == "group" else np.ones_like(rows)
        held = components[torch.from_numpy(seen)]
        knots = choose_knots(held.flatten(1), 17).reshape(plan.channels, 2, 17)
        layer = replace(plan, knots=knots, spread=robust_spread(held.flatten(1)).reshape(plan.channels, 2))
        target = make_target_plan("column:ink", ink[seen], 17)
        whole = Plan((layer,), (target,), 2, 17, 16, "pixel", 0, {})
        codes = layer.encode(components, means).take(torch.from_numpy(rows))
        gram = Gram(plan.channels, 2, 1, 17, 16)
        shared = whole.encode_targets(ink[rows, None])
        gram.update(codes.codes, codes.means, *shared, folds[torch.from_numpy(rows)])
        expected = score_channels(gram, layer, [target], penalty=0.3)[0]
        found = answer.ranking(group=group)
        assert found["status"].to_pylist() == expected.status.tolist()
        ok = expected.status == "ok"
        assert ok.sum() >= 10
        score = found["score_in_sample"].to_numpy()
        assert np.abs(score[ok] - expected.score_in_sample[ok]).max() < 0.01


def test_seventeen_knots_are_more_than_nine(base: Path, tmp_path: Path) -> None:
    """`knots: 17` alone chooses them from the rows."""
    seventeen = asked(base, tmp_path / "a", target={"column": "ink"}, statistics={"knots": 17})
    same = asked(base, tmp_path / "b", target={"column": "ink"}, statistics={"knots": 17, "knots_from": "rows"})
    assert bytes_of(seventeen) == bytes_of(same)
    assert bytes_of(seventeen) != bytes_of(asked(base, tmp_path / "c", target={"column": "ink"}))


def test_knots_from_the_rows_are_the_targets_too(base: Path, tmp_path: Path) -> None:
    """Of a kept target as of a new one."""
    answer = asked(base, tmp_path, target={"column": "ink"}, statistics={"knots_from": "rows"})
    ink = pa.concat_tables(
        pq.read_table(path, columns=["column:ink"]) for path in (base / CODES / "attempts").glob("*/codes.parquet")
    )["column:ink"].to_numpy()
    target = plan_of_run(answer.path, Storage({})).targets[0]
    assert np.allclose(target.knots, make_target_plan("column:ink", ink, 9).knots)


# -- without this package


def test_plain_pyarrow_reads_the_codes_as_the_documentation_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digits(tmp_path / "data", 300, files=1)
    run = tmp_path / "runs" / "mnist"
    ranked(digits_job(tmp_path / "data", run, layers=["conv3"], statistics={"keep_codes": True}))
    text = (Path(__file__).resolve().parents[2] / "docs" / "codes.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(snippet, found)
    assert found["codes"].shape == (300, 32, 2)
    kept = open_codes(str(run), Storage({}))
    assert kept is not None
    block = blocks_of(kept.plan)[0]
    assert np.array_equal(found["codes"], torch.cat([part.codes for part in kept.read_block(block)]).numpy())
    assert found["table"]["id"][0].as_py().startswith("part-00000.parquet#")
