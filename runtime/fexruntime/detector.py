"""Detector: the walk of one frame from pixels to Fex rows.

The stages, each in its own file: `frames` (pixels), `detect` (faces), `crop` (chips), the networks (`backends`),
`heads` (named values), `identity` (names), `fex` (rows).
"""

from __future__ import annotations

import itertools
import math
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexruntime import crop as cropping
from fexruntime import detect as detection
from fexruntime import heads
from fexruntime.backends import make_backend
from fexruntime.boxes import GivenBoxes
from fexruntime.bundle import EDGE, Bundle, open_bundle
from fexruntime.contracts import Crop
from fexruntime.crop import Region
from fexruntime.errors import InputError, StandInWarning
from fexruntime.fex import Fex, assemble
from fexruntime.frames import Frame, Inputs, OutputSize, read_frames
from fexruntime.identity import DEFAULT_THRESHOLD as SAME_PERSON
from fexruntime.identity import METHODS, name_identities
from fexruntime.results import FrameResult
from fexruntime.shrink import shrink_for_detector

F32 = NDArray[np.float32]
FACE_BATCH = 8
"""Faces per run of the face networks: enough to fill the cores, little enough to bound memory."""
DEFAULT_THRESHOLD = 0.5


class Detector:
    """A bundle, loaded and ready. Answers what py-feat's Detectorv2 (or Detectorv1) answers, without torch.

    `bundle` is a folder, a `Bundle`, or "edge" (the packaged face detector, the default). `threads` is the number of CPU
    threads of each network, which run one after another (None: all cores). `cache` is the folder of optimised graphs:
    None for the default, False for none. `shared_pool` puts all sessions of the process on one thread pool: only for a process in which nothing
    else uses ONNX Runtime (see `backends.onnxruntime`). Calls are serialised: threads of a service may share a detector,
    but one at a time runs.

    Raises BundleError, EnvironmentMissingError or InputError with what to do about it.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle = EDGE,
        backend: str = "onnxruntime",
        device: str = "cpu",
        threads: int | None = None,
        cache: str | Path | bool | None = None,
        shared_pool: bool = False,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        self.pipeline = self.bundle.pipeline
        if self.bundle.stand_ins:
            names = ", ".join(self.bundle.stand_ins)
            warnings.warn(f"stand-in weights in {names}: what they answer means nothing", StandInWarning, stacklevel=2)
        folder = _cache_folder(cache)
        roles = self.bundle.networks
        # two at a time: one is hashed while another is parsed
        with ThreadPoolExecutor(max_workers=2) as loading:
            made = loading.map(lambda n: make_backend(backend, n, device, threads, folder, shared_pool), roles.values())
            self._networks = dict(zip(roles, made, strict=True))
        self._buffers: dict[str, F32] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the networks and buffers."""
        with self._lock:
            for network in self._networks.values():
                network.close()
            self._networks = {}
            self._buffers.clear()

    def describe(self) -> dict[str, dict[str, Any]]:
        """For each role, the provider, device, precision and threads really in use, and whether its weights are made up."""
        networks = self.bundle.networks
        return {r: {"stand_in": networks[r].stand_in, **n.describe()} for r, n in self._networks.items()}

    def warmup(self, height: int = 480, width: int = 640, faces: int = 1) -> None:
        """Run everything once, for a frame of that size and that number of faces, so that no real call pays for set-up."""
        frame = np.full((height, width, 3), 127, np.uint8)
        self.detect(frame)
        if self.pipeline.crop is not None and faces:
            box = [width * 0.25, height * 0.25, width * 0.75, height * 0.75]
            self.detect(frame, boxes=np.tile(np.array(box, np.float32), (faces, 1)))

    def detect(
        self,
        inputs: Inputs,
        batch_size: int = 1,
        output_size: OutputSize = None,
        face_detection_threshold: float = DEFAULT_THRESHOLD,
        face_identity_threshold: float = SAME_PERSON,
        identity_method: str = "gallery",
        boxes: Any = None,
        exif: bool = False,
        detector_size: int | None = None,
    ) -> Fex:
        """Fex rows of all faces of all inputs, in order; within a frame the best score first.

        - `inputs`: path, folder, array [H,W,3] or [N,H,W,3] (uint8 RGB), or an iterable of paths and arrays.
        - `batch_size`: frames that are read and run together; those of one size share a run.
        - `output_size`: scale the longer side to this and pad to a square (or fit into (height, width)), as py-feat's;
          coordinates are the original's all the same.
        - `face_detection_threshold`: least score of a face; below 0.5 it has no effect, as in py-feat.
        - `face_identity_threshold`, `identity_method`: see `identity.name_identities`.
        - `boxes`: faces that the caller knows, as corners (x1, y1, x2, y2) in pixels of the frame that the detector would
          see: [N,4] for one frame, or one such array for each frame. Nothing is detected then.
        - `exif`: turn images as their orientation tag says (py-feat does not).
        - `detector_size`: shrink the detector's input so that its longer side is at most this. Faster on large
          frames and **not exact**: boxes move by some percent of their size, faces under 16 px after shrinking are lost.

        Raises InputError for inputs or options that cannot be used.
        """
        if identity_method not in METHODS:
            raise InputError(f"no identity method {identity_method!r}: use {', '.join(METHODS)}")
        results = self.stream(inputs, batch_size, output_size, face_detection_threshold, boxes, exif, detector_size)
        return self.to_fex(results, face_identity_threshold, identity_method, placeholder_rows=boxes is None)

    def to_fex(
        self,
        results: Iterable[FrameResult],
        face_identity_threshold: float = SAME_PERSON,
        identity_method: str = "gallery",
        placeholder_rows: bool = True,
    ) -> Fex:
        """Fex rows of what `stream` gave. `placeholder_rows` gives a frame without a face its NaN row."""
        identity = self.bundle.networks.get("identity")
        return assemble(
            self.pipeline,
            results,
            lambda embeddings: name_identities(embeddings, face_identity_threshold, identity_method),
            identity.row.name if identity else None,
            placeholder_rows,
        )

    def stream(
        self,
        inputs: Inputs,
        batch_size: int = 1,
        output_size: OutputSize = None,
        face_detection_threshold: float = DEFAULT_THRESHOLD,
        boxes: Any = None,
        exif: bool = False,
        detector_size: int | None = None,
        on_bad: Callable[[InputError], None] | None = None,
    ) -> Iterator[FrameResult]:
        """Results of each frame as arrays, as they come; options as in `detect`.

        `on_bad` is called with the error of an input that cannot be read, which is then passed over (its index is left
        out); without it, the error is raised.
        """
        _check_options(batch_size, face_detection_threshold, detector_size)
        frames = read_frames(inputs, output_size, exif, on_bad)
        given = None if boxes is None else GivenBoxes(boxes)
        while batch := list(itertools.islice(frames, batch_size)):
            with self._lock:
                if not self._networks:
                    raise InputError("this detector was closed: make a new one")
                if given is None:
                    found = self._find(batch, face_detection_threshold, detector_size)
                else:
                    found = [detection.given(next(given)) for _ in batch]
                results = self._read_faces(batch, found)
            yield from results
        if given is not None:
            given.finish()

    def _find(self, frames: Sequence[Frame], threshold: float, detector_size: int | None) -> list[detection.Detections]:
        """Faces of each frame, in pixels of that frame."""
        network = self._networks["faces"]
        preprocessing = self.bundle.networks["faces"].row.preprocessing
        views = [shrink_for_detector(frame.rgb_u8, detector_size) for frame in frames]
        found: dict[int, detection.Detections] = {}
        for (height, width), group in _by_size([view.rgb_u8 for view in views]):
            tensor = self._buffer("frames", len(group), 3, height, width)
            for slot, position in enumerate(group):
                detection.fill_input(views[position].rgb_u8, preprocessing, tensor[slot])
            count = len(detection.anchors(height, width))
            out = {
                name: self._buffer(name, len(group), count, values)
                for name, values in (("loc", 4), ("conf", 2), ("landmarks", 10))
            }
            network.infer({network.spec.input_name: tensor}, out)
            faces = detection.find(out["loc"], out["conf"], out["landmarks"], (height, width), threshold)
            found.update((p, views[p].to_frame(d)) for p, d in zip(group, faces, strict=True))
        return [found[position] for position in range(len(frames))]

    def _read_faces(self, frames: Sequence[Frame], found: Sequence[detection.Detections]) -> list[FrameResult]:
        """Run the face networks on all faces of a batch, and hand each frame its share."""
        crop = self.pipeline.crop
        if crop is None:
            return [_result(f, d, d.boxes_xyxy_px, {}) for f, d in zip(frames, found, strict=True)]
        regions = [cropping.locate(d.boxes_xyxy_px, crop) for d in found]
        faces = [(f, r, n) for f, r in zip(frames, regions, strict=True) for n in range(len(r.sample_xyxy_px))]
        blocks = [self._face_outputs(faces[i : i + FACE_BATCH], crop) for i in range(0, len(faces), FACE_BATCH)]
        outputs = {name: np.concatenate([b[name] for b in blocks]) for name in (blocks[0] if blocks else ())}
        results, at = [], 0
        for frame, faces_here, region in zip(frames, found, regions, strict=True):
            n = len(faces_here)
            mine = {name: value[at : at + n] for name, value in outputs.items()}
            values = self._values(mine, frame, region.decode_xyxy_px) if n else {}
            results.append(_result(frame, faces_here, region.decode_xyxy_px, values))
            at += n
        return results

    def _face_outputs(self, faces: Sequence[tuple[Frame, Region, int]], crop: Crop) -> dict[str, F32]:
        """Raw outputs of the face networks for a block of faces, each the n-th region of a frame; by output name."""
        chips = self._buffer("chips", len(faces), 3, crop.size, crop.size)
        for slot, (frame, region, n) in enumerate(faces):
            cropping.cut(frame.rgb_u8, region.sample_xyxy_px[n : n + 1], crop, chips[slot : slot + 1])
        outputs: dict[str, F32] = {}
        for role, network in self._networks.items():
            if role == "faces":
                continue
            source = chips
            if role == "pose":
                decode = np.stack([region.decode_xyxy_px[n] for _, region, n in faces])
                source = heads.landmarks_in_frame(outputs["landmarks"], decode)
            outputs |= network.infer({network.spec.input_name: source})
        return outputs

    def _values(self, outputs: dict[str, F32], frame: Frame, region: F32) -> dict[str, F32]:
        if "multitask" in self._networks:
            values = heads.from_multitask(outputs, self.pipeline, region, frame.pad_xy, frame.scale)
        else:
            values = heads.from_landmarks(outputs, self.pipeline, region, frame.pad_xy, frame.scale)
        if "embedding" in outputs:
            values["embedding"] = outputs["embedding"].copy()
        return values

    def _buffer(self, name: str, *shape: int) -> F32:
        """A reused array: grown when a larger one is asked for, never shrunk."""
        size = math.prod(shape)
        if name not in self._buffers or self._buffers[name].size < size:
            self._buffers[name] = np.empty(size, np.float32)
        return self._buffers[name][:size].reshape(shape)


def _result(frame: Frame, faces: detection.Detections, region: F32, values: dict[str, F32]) -> FrameResult:
    def original(points: F32) -> F32:
        return heads.to_original(points, frame.pad_xy, frame.scale)

    return FrameResult(
        index=frame.index,
        name=frame.name,
        size_hw=frame.reported_hw,
        boxes_xyxy_px=original(faces.boxes_xyxy_px.reshape(-1, 2, 2)).reshape(-1, 4),
        scores=faces.scores,
        points_xy_px=original(faces.points_xy_px),
        facerects_xywh_px=heads.facerects(region, frame.pad_xy, frame.scale),
        **values,
    )


def _by_size(images: Sequence[NDArray[np.uint8]]) -> list[tuple[tuple[int, int], list[int]]]:
    """Positions of the images of each size, in order of first appearance."""
    groups: dict[tuple[int, int], list[int]] = {}
    for position, image in enumerate(images):
        groups.setdefault((image.shape[0], image.shape[1]), []).append(position)
    return list(groups.items())


def _check_options(batch_size: int, threshold: float, detector_size: int | None) -> None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size must be a whole number of 1 or more, not {batch_size!r}")
    if not 0.0 <= threshold <= 1.0:
        raise InputError(f"face_detection_threshold must lie in 0..1, not {threshold!r}")
    if detector_size is not None and (not isinstance(detector_size, int) or detector_size < 64):
        raise InputError(f"detector_size must be a whole number of 64 or more, not {detector_size!r}")


def _cache_folder(cache: str | Path | bool | None) -> Path | None:
    if cache is False:
        return None
    if cache is None or cache is True:
        from fexruntime.backends.graph_cache import default_cache

        return default_cache()
    return Path(cache)
