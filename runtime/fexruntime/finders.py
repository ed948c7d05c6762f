"""Finders by name: from frames to the values of the faces in them.

A finder gives at least "boxes_xyxy_px" and "scores", and whatever else its stage's row says: keypoints, a rotation, a
pose. All are in pixels of the frame, best score first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from fexruntime import blazeface as blaze
from fexruntime import crop as cropping
from fexruntime import detect
from fexruntime import img2pose as face_pose
from fexruntime.arrays import F32, U8
from fexruntime.contracts import VALUES, Crop
from fexruntime.faces import Step
from fexruntime.heads import mapped
from fexruntime.options import Options
from fexruntime.shrink import shrink_for_detector
from fexruntime.sources.frame import Frame
from fexruntime.workspace import Workspace

REGIONS = 256
"""Regions per run of img2pose's heads: their features are 50 kB each."""
Finder = Callable[[Step, Sequence[Frame], Options, Workspace], "list[dict[str, F32]]"]
"""(the finder's step, frames, options, workspace) -> for each frame, values [N, …] by name."""


def given(step: Step, boxes_xyxy_px: F32) -> dict[str, F32]:
    """The caller's own boxes as a finder's values: score 1, everything else NaN (py-feat's `crop_faces_from_boxes`)."""
    n = len(boxes_xyxy_px)
    values = {name: np.full((n, *VALUES[name].shape), np.nan, np.float32) for name in step.gives}
    return values | {"boxes_xyxy_px": boxes_xyxy_px, "scores": np.ones(n, np.float32)}


def reduced(step: Step, steps: Sequence[Step], wanted: frozenset[str]) -> Step:
    """The finder's step without the values of `SPARE` that are neither wanted nor read by a step: it does not compute them."""
    read = wanted | {r for s in steps for r in s.choice.reads if isinstance(r, str)}
    unread = SPARE.get(step.stage.decode, frozenset()) - read
    return replace(step, stage=replace(step.stage, gives=tuple(name for name in step.gives if name not in unread)))


def best(found: list[dict[str, F32]], options: Options) -> list[dict[str, F32]]:
    """The best `max_faces` of each frame's faces; all where it is None."""
    most = options.max_faces
    return found if most is None else [{name: value[:most] for name, value in values.items()} for values in found]


def whole(frame: Frame) -> F32:
    """The box [1,4] of a frame that is taken as one face."""
    height, width = frame.rgb_u8.shape[:2]
    return np.array([[0.0, 0.0, width, height]], np.float32)


def retinaface(step: Step, frames: Sequence[Frame], options: Options, workspace: Workspace) -> list[dict[str, F32]]:
    """RetinaFace: frames of one size share a run."""
    network = workspace.runners[step.role]
    (name,) = step.inputs
    assert step.preprocessing is not None
    with_points = "points_xy_px" in step.gives
    views = [shrink_for_detector(frame.rgb_u8, options.detector_size) for frame in frames]
    found: dict[int, detect.Detections] = {}
    for (height, width), group in _by_size([view.rgb_u8 for view in views]):
        with workspace.timed("finding", len(group)):
            tensor = workspace.empty("frames", len(group), 3, height, width)
            for slot, position in enumerate(group):
                detect.fill_input(views[position].rgb_u8, step.preprocessing, tensor[slot])
            anchors = len(detect.anchors(height, width))
            out = {
                t.name: workspace.empty(t.name, len(group), anchors, int(t.shape[-1]))
                for t in network.spec.outputs
                if t.name != "landmarks" or with_points
            }
        with workspace.timed(f"{step.role} network", len(group)):
            network.infer({name: tensor}, out)
        with workspace.timed("finding", len(group)):
            faces = detect.find(
                out["loc"], out["conf"], out.get("landmarks"), (height, width), options.face_detection_threshold
            )
            found.update((p, views[p].to_frame(d)) for p, d in zip(group, faces, strict=True))
    return [
        {"boxes_xyxy_px": d.boxes_xyxy_px, "scores": d.scores}
        | ({} if d.points_xy_px is None else {"points_xy_px": d.points_xy_px})
        for d in (found[position] for position in range(len(frames)))
    ]


def blazeface(step: Step, frames: Sequence[Frame], options: Options, workspace: Workspace) -> list[dict[str, F32]]:
    """MediaPipe's short-range detector: every frame in a square of its own, all in one run."""
    crop = step.choice.crop
    assert crop is not None
    with workspace.timed("finding", len(frames)):
        tensor = workspace.empty("frames", len(frames), 3, crop.size, crop.size)
        for slot, frame in enumerate(frames):
            cropping.cut(frame.rgb_u8, _of_whole(frame.rgb_u8.shape[:2], crop), crop, tensor[slot : slot + 1])
    with workspace.timed(f"{step.role} network", len(frames)):
        raw = workspace.runners[step.role].infer({step.inputs[0]: tensor})
    regressors, logits = (raw[t.name] for t in workspace.runners[step.role].spec.outputs)
    with workspace.timed("finding", len(frames)):
        found = [
            blaze.find(r, s, f.rgb_u8.shape[:2], options.face_detection_threshold, options.max_faces)
            for r, s, f in zip(regressors, logits, frames, strict=True)
        ]
    return [
        {
            "boxes_xyxy_px": f.boxes_xyxy_px,
            "scores": f.scores,
            "keypoints_xy_px": f.keypoints_xy_px,
            "region_xy_px": f.region_xy_px,
        }
        for f in found
    ]


@lru_cache(maxsize=8)
def _of_whole(size_hw: tuple[int, int], crop: Crop) -> F32:
    """Where the crop of a whole frame is read: the same in frame after frame."""
    sample = cropping.locate(np.array([0, 0, *size_hw[::-1]], np.float32), crop).sample_xyxy_px
    sample.flags.writeable = False
    return sample


def img2pose(step: Step, frames: Sequence[Frame], options: Options, workspace: Workspace) -> list[dict[str, F32]]:
    """img2pose: proposals of all frames of one size in a run, then of each frame the regions that matter.

    Its networks are three: features and proposals, scores of the regions, and pose of those that score enough (a face that
    does not suppresses nothing, so it is left out at once). Each is a box, a score and a pose.
    """
    network, heads_of = workspace.runners[step.role], {n: f"{step.role}.{n}" for n, _ in step.choice.helpers}
    (name,) = step.inputs
    assert step.preprocessing is not None
    settings = face_pose.Settings.of(step.config)
    views = [shrink_for_detector(frame.rgb_u8, options.detector_size) for frame in frames]
    found: dict[int, dict[str, F32]] = {}

    def head(name: str, pyramid: dict[str, F32], boxes: F32) -> F32:
        """What a head says of each region, in their order."""
        runner = workspace.runners[heads_of[name]]
        out = np.empty((len(boxes), int(runner.spec.outputs[0].shape[-1])), np.float32)
        for start in range(0, len(boxes), REGIONS):
            order, named = face_pose.regions(boxes[start : start + REGIONS])
            (out[start + order],) = runner.infer(pyramid | named).values()
        return out

    for (height, width), group in _by_size([view.rgb_u8 for view in views]):
        resized = settings.resized(height, width)
        padded = face_pose.padded(resized)
        with workspace.timed("finding", len(group)):
            tensor = workspace.empty("frames", len(group), 3, *padded)
            for slot, position in enumerate(group):
                face_pose.fill(views[position].rgb_u8, resized, step.preprocessing, tensor[slot])
        with workspace.timed(f"{step.role} network", len(group)):
            out = network.infer({name: tensor})
        objectness, deltas = out.pop("objectness"), out.pop("deltas")
        for slot, position in enumerate(group):
            pyramid = {level: value[slot : slot + 1] for level, value in out.items()}
            with workspace.timed("finding", 1):
                boxes = face_pose.proposals(objectness[slot], deltas[slot], resized, padded, settings)
            with workspace.timed(heads_of["scores"], len(boxes)):
                scores = head("scores", pyramid, boxes)[:, 1]
            kept = face_pose.worth_a_pose(boxes, scores, options.face_detection_threshold)
            boxes, scores = boxes[kept], scores[kept]
            with workspace.timed(heads_of["pose"], len(boxes)):
                pose = head("pose", pyramid, boxes)
            with workspace.timed("finding", 1):
                boxes, scores, raw = face_pose.faces(boxes, scores, pose, resized, (height, width), settings)
                boxes = boxes * np.tile(np.array(views[position].factor_xy, np.float32), 2)
                (axes,) = step.stage.axes
                found[position] = {"boxes_xyxy_px": boxes, "scores": scores, axes.value: mapped(raw, axes)}
    return [found[position] for position in range(len(frames))]


def _by_size(images: Sequence[U8]) -> list[tuple[tuple[int, int], list[int]]]:
    """Positions of the images of each size, in order of first appearance."""
    groups: dict[tuple[int, int], list[int]] = {}
    for position, image in enumerate(images):
        groups.setdefault((image.shape[0], image.shape[1]), []).append(position)
    return list(groups.items())


FINDERS: dict[str, Finder] = {"retinaface": retinaface, "blazeface": blazeface, "img2pose": img2pose}
SPARE = {"retinaface": frozenset({"points_xy_px"})}
"""By finder: values that it can do without, by which no crop is cut."""
