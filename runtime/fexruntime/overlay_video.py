"""Drawn frames as a video: H.264 in MP4, each frame shown when the one it was drawn on is."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from fexruntime.arrays import U8
from fexruntime.errors import EnvironmentMissingError, OutputError
from fexruntime.files import replacing
from fexruntime.overlay import MARK
from fexruntime.sources.frame import Moment
from fexruntime.sources.video import import_av

OVERLAY_SUFFIXES = (".mp4", ".mov", ".mkv")
_TIME_BASE = Fraction(1, 90000)
_QUALITY = "20"
"""x264's constant rate factor: hardly to be told from the original."""


class OverlayVideo:
    """A video that is written frame by frame, whole or not at all: a context. OutputError if it cannot be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._av = import_av()
        if "libx264" not in self._av.codecs_available:
            raise EnvironmentMissingError(
                "writing overlay videos needs PyAV with libx264: pip install 'fexport[video]'"
            )
        self._stack = contextlib.ExitStack()
        self._container: Any = None
        self._stream: Any = None
        self._last = -1
        self.frames = 0

    def __enter__(self) -> OverlayVideo:
        temporary = self._stack.enter_context(replacing(self.path))
        form = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}[self.path.suffix.lower()]
        self._container = self._av.open(str(temporary), "w", format=form)
        self._container.metadata["comment"] = MARK.decode()
        return self

    def add(self, rgb: U8, moment: Moment | None) -> None:
        """Append a frame [H,W,3]; without a moment, a thirtieth of a second after the last."""
        height, width = (side - side % 2 for side in rgb.shape[:2])  # 4:2:0 has no odd sides
        try:
            if self._stream is None:
                self._stream = self._container.add_stream("libx264", rate=30)
                self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
                self._stream.time_base = self._stream.codec_context.time_base = _TIME_BASE
                self._stream.options = {"crf": _QUALITY, "preset": "veryfast"}
            if (width, height) != (self._stream.width, self._stream.height):
                import cv2

                rgb = np.asarray(cv2.resize(rgb, (self._stream.width, self._stream.height)), np.uint8)
                height, width = rgb.shape[:2]
            frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb[:height, :width]), format="rgb24")
            at = self._last + 3000 if moment is None else round(moment.time_s / float(_TIME_BASE))
            frame.pts = self._last = max(at, self._last + 1)
            frame.time_base = _TIME_BASE
            self._container.mux(self._stream.encode(frame))
        except OSError as error:
            raise OutputError(f"cannot write {str(self.path)!r}: {error.strerror or error}") from None
        self.frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # interrupted by a person: what was drawn so far is a video; after another error there is none
        try:
            if self._stream is not None and kind is None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if self._stream is None and kind is None:
                raise OutputError(f"cannot write {str(self.path)!r}: no frame was drawn")
        except OSError as failed:
            raise OutputError(f"cannot write {str(self.path)!r}: {failed.strerror or failed}") from None
        finally:
            self._stack.__exit__(kind, error, trace)
