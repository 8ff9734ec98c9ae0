"""SIGTERM and SIGINT as a flag, to be checked between two steps. Knows nothing of what is interrupted."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupt:
    """SIGTERM and SIGINT as a flag. The second signal ends the process at once."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self._before: dict[int, object] = {}

    def is_set(self) -> bool:
        return self.event.is_set()

    def install(self) -> None:
        """After Ray has started: it puts in a SIGTERM handler of its own."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._on_signal)

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, _number: int, _: FrameType | None) -> None:
        if self.event.is_set():
            raise KeyboardInterrupt
        self.event.set()


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupt]:
    interrupt = Interrupt()
    try:
        yield interrupt
    finally:
        interrupt.restore()
