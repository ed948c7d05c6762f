"""Work that another thread does, in order, while the caller goes on: the other end of reading ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

MOST_TASKS = 8


class Behind:
    """A thread that does tasks in the order they are given; at most so many wait, and the one who gives then waits too.

    What a task raises is raised wherever another is given, and at `finish`; no task after it is done.
    """

    def __init__(self, most: int = MOST_TASKS) -> None:
        self._tasks: queue.Queue[Callable[[], None] | None] = queue.Queue(most)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="fexport-behind", daemon=True)
        self._thread.start()

    def do(self, task: Callable[[], None]) -> None:
        """Give a task."""
        if self._error is not None:
            self.finish()
        self._tasks.put(task)

    def finish(self) -> None:
        """Wait until every task is done; it takes none afterwards."""
        if self._thread.is_alive():
            self._tasks.put(None)
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if self._error is not None:
                continue
            try:
                task()
            except BaseException as error:  # raised again in the caller's thread
                self._error = error
