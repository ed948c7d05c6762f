"""Reading ahead in a thread of its own, so that decoding and the networks overlap, within a bound of memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
MOST_ITEMS = 16
MOST_BYTES = 96 << 20
"""Held at a time: sixteen full-HD frames, or four of 4K."""


class Ahead(Generic[T]):
    """Items of an iterator, taken from it by a thread that is at most so many items and bytes ahead (but at least one).

    What the iterator raises reaches the one who reads here, after the items before it. `close` ends the thread.
    """

    def __init__(
        self,
        items: Iterator[T],
        size: Callable[[T], int],
        most_items: int = MOST_ITEMS,
        most_bytes: int = MOST_BYTES,
        name: str = "fexport-ahead",
    ) -> None:
        self._items, self._size = items, size
        self._most_items, self._most_bytes = most_items, most_bytes
        self._waiting: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._error: BaseException | None = None
        self._done = self._closed = False
        self._changed = threading.Condition()
        # a daemon: a file system that hangs must not keep the process from ending
        self._thread = threading.Thread(target=self._read, name=name, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        try:
            while True:
                with self._changed:
                    while not (self._waiting or self._done or self._closed):
                        self._changed.wait()
                    if not self._waiting:
                        break
                    item, size = self._waiting.popleft()
                    self._bytes -= size
                    self._changed.notify_all()
                yield item
            if self._error is not None:
                raise self._error
        finally:
            self.close()

    def close(self) -> None:
        """Stop reading, and wait until the thread has let go of its source."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=5)

    def _read(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    break
        except BaseException as error:  # raised again where it is read
            self._error = error
        finally:
            close = getattr(self._items, "close", None)
            if close is not None:  # a generator: its files are closed by the thread that opened them
                close()
            with self._changed:
                self._done = True
                self._changed.notify_all()

    def _put(self, item: T) -> bool:
        size = self._size(item)
        with self._changed:
            while not self._closed and self._waiting and self._full(size):
                self._changed.wait()
            if self._closed:
                return False
            self._waiting.append((item, size))
            self._bytes += size
            self._changed.notify_all()
        return True

    def _full(self, size: int) -> bool:
        return len(self._waiting) >= self._most_items or self._bytes + size > self._most_bytes
