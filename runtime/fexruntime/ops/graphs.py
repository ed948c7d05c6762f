"""Work on a GPU that is asked for again and again, as CUDA graphs; and marks in it, for what each part of it takes.

A graph has addresses and shapes in it, and an execution context of TensorRT must not be changed once it was captured: so work
is captured when it has left everything as it found it, and its graph is dropped when anything has changed since.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Protocol

from fexruntime.cuda import Cuda
from fexruntime.errors import InferenceError, one_line

_log = logging.getLogger("fexruntime.detector")
MOST = 32
"""Graphs that are kept, the last used ones."""


class Marks:
    """Marks in a stream, each behind the work that it is named after."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._events: list[int] = []
        self.names: list[str] = []

    def begin(self) -> None:
        """Forget the marks of before, and put the first one."""
        self.names = []
        self.put("")

    def put(self, name: str) -> None:
        """A mark behind what was asked for."""
        if len(self.names) == len(self._events):
            self._events.append(self._cuda.event())
        self._cuda.record(self._events[len(self.names)])
        self.names.append(name)

    def seconds(self) -> dict[str, float]:
        """What the GPU took between marks, by the name of the later one; everything has to be done."""
        found: dict[str, float] = {}
        for k, name in enumerate(self.names[1:], 1):
            found[name] = found.get(name, 0.0) + self._cuda.elapsed_ms(self._events[k - 1], self._events[k]) / 1e3
        return found


State = Mapping[Hashable, int]
"""What a graph depends on beside its key: another number wherever something has changed."""


class Watched(Protocol):
    """What graphs ask of what they are captured from."""

    def state(self) -> State | None:
        """All that there is to depend on; None: nothing can be captured."""
        ...

    def used(self) -> set[Hashable]:
        """Names, in `state`, of what was used since this was asked last."""
        ...


@dataclass(frozen=True, slots=True)
class _Graph:
    handle: int
    state: State
    names: tuple[str, ...]
    """Of the marks in it."""


class Graphs:
    """Graphs of one stream, by what they do."""

    def __init__(self, cuda: Cuda, marks: Marks, watched: Watched) -> None:
        self._cuda, self._marks, self._watched = cuda, marks, watched
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._steady: dict[Hashable, State] = {}
        self.refused = ""
        """Why nothing is captured any more; empty while it is."""

    def run(self, key: Hashable, asked: Callable[[], None]) -> None:
        """Put work into the stream: as a graph, if it was asked for before and nothing has changed."""
        known = self._graphs.get(key)
        if known is not None and self._holds(known.state):
            self._graphs.move_to_end(key)
            self._replay(known)
            return
        if known is not None:
            self._cuda.forget(self._graphs.pop(key).handle)
        steady = self._steady.pop(key, None)
        if steady is not None and not self.refused and self._holds(steady) and self._capture(key, asked):
            return
        unchanged = self._watching(asked)
        if unchanged is not None:
            if len(self._steady) >= MOST:
                self._steady.clear()
            self._steady[key] = unchanged

    def _holds(self, state: State) -> bool:
        now = self._watched.state()
        return now is not None and all(now.get(name) == value for name, value in state.items())

    def _watching(self, asked: Callable[[], None]) -> State | None:
        """Do it, and answer the state of what it used, if it left that as it was."""
        before = self._watched.state()
        self._watched.used()
        asked()
        used, after = self._watched.used(), self._watched.state()
        if before is None or after is None or any(before.get(name) != after[name] for name in used):
            return None
        return {name: after[name] for name in used}

    def _capture(self, key: Hashable, asked: Callable[[], None]) -> bool:
        """Capture and run; False where the work cannot be captured, which then was not run."""
        first = len(self._marks.names)
        states: list[State | None] = []
        try:
            handle = self._cuda.captured(lambda: states.append(self._watching(asked)))
        except InferenceError as error:
            del self._marks.names[first:]
            self.refused = one_line(error)
            _log.warning("no CUDA graphs: %s", self.refused)
            return False
        names = tuple(self._marks.names[first:])
        del self._marks.names[first:]
        (state,) = states
        if state is None:
            self._cuda.forget(handle)
            return False
        self._graphs[key] = made = _Graph(handle, state, names)
        while len(self._graphs) > MOST:
            self._cuda.forget(self._graphs.popitem(last=False)[1].handle)
        self._replay(made)
        return True

    def _replay(self, graph: _Graph) -> None:
        self._cuda.replay(graph.handle)
        self._marks.names += graph.names

    def __len__(self) -> int:
        return len(self._graphs)
