"""A window with frames and what was found on them, by Tk: OpenCV's headless build has none."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np

from fexport.cli.drawing import Draw
from fexruntime.errors import EnvironmentMissingError
from fexruntime.results import FrameResult
from fexruntime.sources.frame import Frame

LONGER_SIDE = 960
_TICK_S = 0.03


class Window:
    """A window: a context. `show` answers False once a person closed it (or pressed q or Escape)."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._open = True
        try:
            import tkinter
        except ImportError as error:
            raise EnvironmentMissingError(
                f"--show needs Tk ({error}): install python3-tk, or write --overlay"
            ) from None
        self._tk = tkinter
        try:
            self._root = tkinter.Tk(className="fexport")
        except tkinter.TclError as error:
            raise EnvironmentMissingError(
                f"--show needs a display, and there is none here ({error}): write --overlay instead"
            ) from None
        self._root.title("fexport")
        self._label = tkinter.Label(self._root)
        self._label.pack()
        for event in ("<q>", "<Escape>"):
            self._root.bind(event, self._closed)
        self._root.protocol("WM_DELETE_WINDOW", self._closed)

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._root.destroy()

    def _closed(self, event: Any = None) -> None:
        self._open = False

    def show(self, frame: Frame, result: FrameResult, words: str = "") -> bool:
        """Show a frame with its faces."""
        import cv2

        drawn: Any = self._draw(frame, result)
        factor = LONGER_SIDE / max(drawn.shape[:2])
        if factor < 1:
            drawn = cv2.resize(drawn, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        height, width = drawn.shape[:2]
        picture = b"P6 %d %d 255\n" % (width, height) + np.ascontiguousarray(drawn, np.uint8).tobytes()
        image = self._tk.PhotoImage(master=self._root, data=picture, format="PPM")
        self._label.configure(image=image)
        self._image = image  # Tk keeps no reference of its own
        self._root.title(f"{frame.name} {frame.index} {words}".strip())
        self._root.update()
        return self._open

    def stay(self, ended: Callable[[], bool]) -> None:
        """Leave the last frame there until a person closes the window, or until `ended`."""
        self._root.title(f"{self._root.title()} (q closes)")
        while self._open and not ended():
            self._root.update()
            time.sleep(_TICK_S)
