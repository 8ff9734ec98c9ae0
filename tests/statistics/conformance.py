"""One harness for everything that accumulates: subclass `AccumulatorConformance`, say how to make and feed one."""

from __future__ import annotations

import pickle
from functools import reduce
from typing import Any


class AccumulatorConformance:
    """Tests that any mergeable accumulator must pass. `parts` are updates; the state must depend on their set alone."""

    def empty(self) -> Any:
        raise NotImplementedError

    def parts(self) -> list[Any]:
        """At least three different updates."""
        raise NotImplementedError

    def update(self, accumulator: Any, part: Any) -> Any:
        """Feeds a part and returns what the accumulator's own update returns."""
        raise NotImplementedError

    def state(self, accumulator: Any) -> bytes:
        data: bytes = accumulator.to_bytes()
        return data

    def of(self, *parts: Any) -> Any:
        return reduce(self.update, parts, self.empty())

    def whole(self) -> bytes:
        return self.state(self.of(*self.parts()))

    def test_update_returns_the_accumulator_itself(self) -> None:
        accumulator = self.empty()
        assert self.update(accumulator, self.parts()[0]) is accumulator

    def test_merge_returns_the_accumulator_itself(self) -> None:
        accumulator = self.empty()
        assert accumulator.merge([self.empty()]) is accumulator

    def test_order_of_updates_does_not_matter(self) -> None:
        assert self.state(self.of(*reversed(self.parts()))) == self.whole()

    def test_merge_with_empty_changes_nothing(self) -> None:
        merged = self.of(*self.parts())
        assert self.state(merged.merge([self.empty()])) == self.whole()
        assert self.state(self.empty().merge([merged])) == self.whole()

    def test_merge_of_nothing_changes_nothing(self) -> None:
        assert self.state(self.of(*self.parts()).merge([])) == self.whole()

    def test_merge_is_independent_of_order_and_grouping(self) -> None:
        first, second, *rest = [self.of(part) for part in self.parts()]
        left = self.empty().merge([first, second]).merge(rest)
        right = self.empty().merge(reversed(rest)).merge([self.of(self.parts()[1]).merge([first])])
        assert self.state(left) == self.state(right) == self.whole()

    def test_merge_leaves_the_others_unchanged(self) -> None:
        other = self.of(self.parts()[0])
        before = self.state(other)
        merged = self.of(self.parts()[1]).merge([other])
        self.update(merged, self.parts()[2])
        assert self.state(other) == before

    def test_updatable_after_merge(self) -> None:
        first, *rest = self.parts()
        assert self.state(reduce(self.update, rest, self.empty().merge([self.of(first)]))) == self.whole()

    def test_save_and_load_give_the_same_state(self) -> None:
        loaded = type(self.empty()).from_bytes(self.whole())
        assert self.state(loaded) == self.whole()

    def test_pickle_gives_the_same_state(self) -> None:
        assert self.state(pickle.loads(pickle.dumps(self.of(*self.parts())))) == self.whole()

    def test_updatable_after_load(self) -> None:
        first, *rest = self.parts()
        loaded = type(self.empty()).from_bytes(self.state(self.of(first)))
        assert self.state(reduce(self.update, rest, loaded)) == self.whole()

    def test_saved_state_is_the_same_bytes_every_time(self) -> None:
        assert self.whole() == self.whole()
