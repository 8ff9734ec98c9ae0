"""The plan of shards: a function of the sizes alone, every item once and in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pcace_dist.packing.shards import PackTask, ShardLimits, plan_tasks

MB = 10**6


def spans(tasks: tuple[PackTask, ...]) -> list[tuple[int, int]]:
    return [(task.start, task.stop) for task in tasks]


@given(
    st.lists(st.integers(0, 1000), max_size=60),
    st.booleans(),
    st.integers(1, 3000),
    st.none() | st.integers(1, 9),
)
def test_every_item_is_in_one_task_in_order(sizes: list[int], counted: bool, most: int, rows: int | None) -> None:
    tasks = plan_tasks(sizes, counted, ShardLimits(most, rows))
    assert [item for start, stop in spans(tasks) for item in range(start, stop)] == list(range(len(sizes)))
    assert all(task.start < task.stop for task in tasks)
    assert [task.name for task in tasks] == [f"part-{i:05d}" for i in range(len(tasks))]


def test_images_fill_shards_to_the_limit() -> None:
    assert spans(plan_tasks([100] * 7, True, ShardLimits(300))) == [(0, 3), (3, 6), (6, 7)]
    assert spans(plan_tasks([100] * 7, True, ShardLimits(300, 2))) == [(0, 2), (2, 4), (4, 6), (6, 7)]


def test_an_image_larger_than_a_shard_is_one_shard() -> None:
    (task,) = plan_tasks([1000], True, ShardLimits(300))
    assert not task.divided and task.shard(0) == "part-00000.parquet"


def test_small_tars_share_a_shard_and_a_large_one_is_divided_evenly() -> None:
    tasks = plan_tasks([100 * MB, 100 * MB, 100 * MB, 50 * MB, 1000 * MB, 20 * MB], False, ShardLimits(256 * MB))
    assert spans(tasks) == [(0, 3), (3, 4), (4, 5), (5, 6)]
    assert [task.divide_bytes for task in tasks] == [None, None, 250 * MB, None]
    assert [task.shard(1) for task in tasks[2:3]] == ["part-00002-01.parquet"]
