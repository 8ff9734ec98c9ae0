"""A bounded queue between two threads; either side can end it. Knows nothing about the items."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class BoundedQueue(Generic[T]):
    """A bounded queue that the sender can finish (also with an error) and the receiver can close.

    Items have weights; the sender waits while their sum would be above `capacity`. get() returns None at the end.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[tuple[T, int]] = deque()
        self._weight = 0
        self._finished = self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    @property
    def closed(self) -> bool:
        return self._closed

    def reserve(self, weight: int) -> bool:
        """Wait until an item of this weight fits; False if the queue was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._weight or self._weight + weight <= self._capacity)
            return not self._closed

    def put(self, item: T, weight: int = 1) -> bool:
        """Add an item when it fits; False if the queue was closed."""
        fits = self.reserve(weight)
        with self._changed:
            if fits and not self._closed:
                self._items.append((item, weight))
                self._weight += weight
                self._changed.notify_all()
                return True
        if isinstance(item, Future):
            item.cancel()
        return False

    def get(self) -> T | None:
        """The next item; None at the end or when closed. After the last item, raises the sender's error."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._finished or self._items)
            if self._closed:
                return None
            if self._items:
                item, weight = self._items.popleft()
                self._weight -= weight
                self._changed.notify_all()
                return item
            if self._error is not None:
                raise self._error
            return None

    def finish(self, error: BaseException | None = None) -> None:
        """No more items; receivers get `error` after the last."""
        with self._changed:
            self._finished, self._error = True, self._error or error
            self._changed.notify_all()

    def close(self) -> None:
        """Drop all items and wake everybody."""
        with self._changed:
            self._closed = True
            for item, _ in self._items:
                if isinstance(item, Future):
                    item.cancel()
            self._items.clear()
            self._weight = 0
            self._changed.notify_all()
