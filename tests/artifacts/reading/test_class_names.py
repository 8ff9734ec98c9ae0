"""How groups, labels and targets are shown where classes have names."""

from __future__ import annotations

import pytest

from pcace_dist.artifacts.reading.class_names import ClassNames, class_names_table, names_of_table
from pcace_dist.config.choice import choose
from pcace_dist.errors import UserError


def asked(names: ClassNames, name: object, *groups: int | None) -> list[object]:
    """The groups that are meant."""
    return list(choose("group", name, groups, names.group_names, where="the run"))


PETS = {0: "cat", 1: "dog", 2: "2"}


def test_a_class_is_shown_with_its_name() -> None:
    names = ClassNames(PETS, of_groups=True)
    assert [names.output(index) for index in range(4)] == ["0 (cat)", "1 (dog)", "2", "3"]
    assert [names.label(index) for index in range(2)] == ["0 (cat)", "1 (dog)"]
    assert [names.group(value) for value in (0, 1.0, None, 7)] == ["0 (cat)", "1.0 (dog)", "null", "7"]


def test_labels_that_count_from_1() -> None:
    names = ClassNames(PETS, base=1, of_groups=True)
    assert names.label(0) == names.group(1) == "1 (cat)"
    assert names.output(0) == "0 (cat)"
    assert asked(names, "cat", 1, 2, 3) == [1]


def test_groups_that_are_no_labels_have_no_names() -> None:
    names = ClassNames(PETS)
    assert names.group(0) == "0"
    with pytest.raises(UserError, match="no group 'cat'"):
        asked(names, "cat", 0, 1)


def test_one_ranking_over_all_images_has_no_groups_to_name() -> None:
    with pytest.raises(UserError, match=r"no group 'cat'; it has one ranking over all images \(no group_by\)"):
        asked(ClassNames(PETS), "cat", None)
    assert asked(ClassNames(PETS), "null", None) == [None]


def test_texts_and_truth_values_are_their_own_names() -> None:
    names = ClassNames({0: "cat", 1: "dog"}, of_groups=True)
    assert [names.group(value) for value in ("cat", True, "")] == ["cat", "True", "''"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("logit:1", "logit:1 (dog)"),
        ("logit:1-0", "logit:1 (dog)-0 (cat)"),
        ("margin:1", "margin:1 (dog)"),
        ("logit:label", "logit:label"),
        ("logit:9", "logit:9"),
        ("output:1", "output:1"),
        ("column:1", "column:1"),
    ],
)
def test_targets(name: str, shown: str) -> None:
    assert ClassNames(PETS).target(name) == shown
    assert set(ClassNames(PETS).target_names(name)) == {shown, name}


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("dog", [1]),
        ("1 (dog)", [1]),
        ("1", [1]),
        (1, [1]),
        ("2", [2]),
        ("null", [None]),
        ("[cd]*", [0, 1]),
        (["cat", "null"], [0, None]),
        (None, [0, 1, 2, None]),
    ],
)
def test_a_group_can_be_asked_for_as_it_is_shown_by_its_name_and_by_globs(name: object, groups: list[object]) -> None:
    assert asked(ClassNames(PETS, of_groups=True), name, 0, 1, 2, None) == groups


def test_a_value_comes_before_a_name() -> None:
    digits = ClassNames({0: "1", 1: "0"}, of_groups=True)
    assert asked(digits, "1", 0, 1) == [1]
    assert digits.group(1) == "1 (0)"


def test_names_survive_their_file() -> None:
    assert names_of_table(class_names_table({2: "dog", 0: "Katze"})) == {0: "Katze", 2: "dog"}
