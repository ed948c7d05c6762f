"""What one call needs for itself: buffers, runners of the loaded networks, and notes of how long each stage took."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from fexruntime.arrays import F32
from fexruntime.backends.base import Backend
from fexruntime.errors import ClosedError
from fexruntime.ops.base import HostOps, Ops

REMEMBERED_CALLS = 16
LARGEST_SHARE = 4
"""A buffer more than this many times larger than any of the last calls needed is given back."""

Observer = Callable[[str, float, int], None]
"""Called with a stage's name, its seconds, and how many items (frames or faces) it was for."""


class Workspace:
    """Buffers and runners for one caller at a time, and what works on pixels for it (`ops`)."""

    def __init__(self, runners: Mapping[str, Backend], ops: Ops | None = None) -> None:
        self.runners = dict(runners)
        self.ops: Ops = ops or HostOps()
        self.notes: list[tuple[str, float, int]] = []
        self._buffers: dict[str, F32] = {}
        self._needed: dict[str, deque[int]] = {}
        self._now: dict[str, int] = {}

    def empty(self, name: str, *shape: int) -> F32:
        """A reused array of this shape, its content undefined."""
        size = math.prod(shape)
        self._now[name] = max(self._now.get(name, 0), size)
        if name not in self._buffers or self._buffers[name].size < size:
            self._buffers[name] = np.empty(size, np.float32)
        return self._buffers[name][:size].reshape(shape)

    @property
    def buffer_bytes(self) -> int:
        """Bytes that it holds."""
        return sum(b.nbytes for b in self._buffers.values())

    def timed(self, stage: str, items: int) -> contextlib.AbstractContextManager[None]:
        """Note how long the block takes."""
        return _Timed(self, stage, items)

    def end_of_call(self) -> list[tuple[str, float, int]]:
        """Give back buffers that recent calls were far from needing; answers (and forgets) the notes of this call."""
        for name in list(self._buffers):
            needed = self._needed.setdefault(name, deque(maxlen=REMEMBERED_CALLS))
            needed.append(self._now.get(name, 0))
            if self._buffers[name].size > LARGEST_SHARE * max(needed):
                del self._buffers[name]
        self._now.clear()
        notes, self.notes = [*self.notes, *self.ops.notes()], []
        return notes


class _Timed(contextlib.AbstractContextManager[None]):
    """Several a frame: a generator's own would take three times as long."""

    def __init__(self, workspace: Workspace, stage: str, items: int) -> None:
        self._workspace, self._stage, self._items = workspace, stage, items

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self._workspace.notes.append((self._stage, time.perf_counter() - self._start, self._items))


class Workspaces:
    """Several workspaces, lent to one caller each; the last used first, since its buffers are warm."""

    def __init__(self, workspaces: list[Workspace]) -> None:
        self._all = workspaces
        self._free = list(workspaces)
        self._changed = threading.Condition()
        self._closed = False

    @contextlib.contextmanager
    def lent(self) -> Iterator[Workspace]:
        """A workspace for the block; waits for one. ClosedError once closed."""
        with self._changed:
            while not self._free and not self._closed:
                self._changed.wait()
            self.check_open()
            mine = self._free.pop()
        try:
            yield mine
        finally:
            with self._changed:
                for idle in self._free:  # their buffers age too
                    idle.end_of_call()
                self._free.append(mine)
                self._changed.notify_all()

    def check_open(self) -> None:
        """ClosedError once closed."""
        if self._closed:
            raise ClosedError("this detector was closed: make a new one")

    def close(self) -> list[Workspace]:
        """Let nobody in any more, wait until the last caller is done, and answer the workspaces."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            while len(self._free) < len(self._all):
                self._changed.wait()
            self._free, mine, self._all = [], self._all, []
        return mine

    def __len__(self) -> int:
        return len(self._all)

    @property
    def buffer_bytes(self) -> int:
        """Bytes that all of them hold."""
        return sum(workspace.buffer_bytes for workspace in self._all)
