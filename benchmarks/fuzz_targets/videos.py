"""Videos."""

from __future__ import annotations

from typing import Any

import numpy as np

from fexruntime.errors import InputError
from fexruntime.sources.video import Video
from fuzz_targets.target import READ, Broken, Target, mutate_bytes, refusal, working_folder


def _videos() -> list[bytes]:
    import av

    made = []
    for suffix, codec, count in (("mp4", "libx264", 6), ("mkv", "mpeg4", 4), ("avi", "mjpeg", 2)):
        path = working_folder() / f"seed.{suffix}"
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream(codec, rate=30)
            stream.height = stream.width = 32
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for n in range(count):
                pixels = np.full((32, 32, 3), 40 * n, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))
        made.append(path.read_bytes())
    return made


def check_video(data: bytes) -> str:
    """The first frames of a video are read, or it is refused."""
    path = working_folder() / "film.mp4"
    path.write_bytes(data)
    try:
        video = Video(path, rotate=bool(len(data) & 1))
        for picked in video.frames(range(min(video.timeline.frames, 6))):
            if picked.rgb_u8.ndim != 3 or picked.rgb_u8.shape[2] != 3 or picked.rgb_u8.dtype != np.uint8:
                raise Broken(f"not a frame: {picked.rgb_u8.shape}")
    except InputError as error:
        return refusal(error)
    return READ


TARGET = Target(_videos, check_video, mutate_bytes, ("sources/video.py", "sources/timeline.py"), 1 << 13)
