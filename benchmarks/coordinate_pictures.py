"""The pictures of docs/coordinates.md, from the packaged photograph and the packaged bundles, by the code that the page is about.

    python benchmarks/coordinate_pictures.py

Boxes, meshes, crops, axes and arrows are what `fexruntime` finds, cuts and draws; only captions and rulers are this script's. Needs matplotlib.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

from fexport.samples import photograph
from fexruntime import Detector, hog
from fexruntime import crop as cropping
from fexruntime.arrays import U8
from fexruntime.contracts import LANDMARK_CROP, MULTITASK_CHIP, TOKENHPE_CROP, VALUES
from fexruntime.contracts.head_pose_pipelines import FACEMESH_CROP
from fexruntime.contracts.labels import DLIB68_FROM_MESH, MESH_POINTS
from fexruntime.face_geometry import canonical_face, rotation_of
from fexruntime.overlay import draw
from fexruntime.results import FrameResult

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
SHOWN = slice(20, 226), slice(122, 328)
"""Rows and columns of the photograph that are shown."""
CROPS = {
    "square-pad (Detectorv2)": MULTITASK_CHIP,
    "anisotropic (Detectorv1)": LANDMARK_CROP,
    "centre (TokenHPE)": TOKENHPE_CROP,
    "rotated (FaceMesh)": FACEMESH_CROP,
}
COLOURS = ("#ffd23c", "#3cdc5a", "#ff6edc", "#5aaaff")
_DARK = {"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "pad": 2}
ANGLE = 0.5
"""Radians by which the face is turned in the picture of signs."""


def main() -> None:
    """Write all of them."""
    mpl.use("Agg")
    plt.rcParams.update({"font.size": 8, "figure.dpi": 100})
    PICTURES.mkdir(exist_ok=True)
    frame = photograph()
    with Detector("edge") as edge, Detector("facemesh") as facemesh:
        (box,) = edge.stream(frame)
        (mesh,) = facemesh.stream(frame)
    boxes(frame, box)
    crops(frame, box, mesh)
    depth(frame, mesh)
    signs()


def boxes(frame: U8, found: FrameResult) -> None:
    """A face's box as FaceRect and as corners, and the finder's five points, in pixels of the frame."""
    figure, axes = plt.subplots(figsize=(4.6, 4.6), layout="constrained")
    _frame(axes, draw(*_shown(frame, found)))
    (left, top, width, height), (_, _, right, bottom) = found.facerects_xywh_px[0], found.boxes_xyxy_px[0]
    axes.plot([left, right], [top, bottom], "o", color="white", ms=4)
    _said(axes, f"FaceRectX, FaceRectY = x1, y1\n({left:.1f}, {top:.1f})", (left, top), (-50, 170))
    _said(axes, f"x2, y2\n({right:.1f}, {bottom:.1f})", (right, bottom), (8, 24))
    for start, end, text, at in (
        ((left, bottom + 6), (right, bottom + 6), f"FaceRectWidth {width:.1f}", ((left + right) / 2, bottom + 14)),
        ((right + 6, top), (right + 6, bottom), f"FaceRectHeight {height:.1f}", (right + 12, (top + bottom) / 2)),
    ):
        axes.annotate("", end, start, arrowprops={"arrowstyle": "<->", "color": "white"})
        turned = start[0] == end[0]
        axes.text(
            *at, text, color="white", ha="left" if turned else "center", va="center", rotation=90 * turned, bbox=_DARK
        )
    for text, end in (("x", (160, 26)), ("y", (128, 58))):
        axes.annotate("", end, (128, 26), arrowprops={"arrowstyle": "->", "color": "black"})
        axes.text(
            end[0] + 3 * (text == "x"),
            end[1] + 5 * (text == "y"),
            text,
            va="center",
            ha="left" if text == "x" else "center",
        )
    _save(figure, "boxes.png")


def crops(frame: U8, found: FrameResult, mesh: FrameResult) -> None:
    """Where each kind of crop lies round a face, what a network sees of it, and the aligned face that classifiers read."""
    figure, axes = plt.subplot_mosaic("AABC\nAADE\nAAFF", figsize=(8, 5.2), layout="constrained")
    _frame(axes["A"], frame[SHOWN])
    chips = {}
    for (name, crop), colour in zip(CROPS.items(), COLOURS, strict=True):
        source = mesh if crop is FACEMESH_CROP else found
        region = cropping.locate(source.boxes_xyxy_px, crop, source.values)
        sample, box = region.sample_xyxy_px[:1], region.decode_xyxy_px[0]
        chips[name] = cropping.cut(frame, sample, crop, np.empty((1, 3, crop.size, crop.size), np.float32))
        x1, y1, x2, y2 = box
        corners = np.array([[x1, y2], [x1, y1], [x2, y1], [x2, y2]])
        corners = sample.reshape(4, 2) if crop is FACEMESH_CROP else corners
        axes["A"].plot(*np.concatenate([corners, corners[:1]]).T, color=colour, lw=1.6, label=name)
    axes["A"].legend(loc="lower left", fontsize=7)
    for place, (name, chip) in zip("BCDE", chips.items(), strict=True):
        axes[place].imshow(chip[0].transpose(1, 2, 0))
        axes[place].set_title(f"{name}, {chip.shape[-1]} px", fontsize=7)
        axes[place].axis("off")
    assert mesh.landmarks_xy_px is not None
    x1, y1, x2, y2 = cropping.locate(found.boxes_xyxy_px, LANDMARK_CROP).decode_xyxy_px[0]
    points = (mesh.landmarks_xy_px[:1] - [x1, y1]) / [x2 - x1, y2 - y1] * hog.SIZE
    matrices = hog.alignment(points.astype(np.float32))
    aligned = hog.warped(chips["anisotropic (Detectorv1)"], matrices.astype(np.float32))
    aligned *= hog.masks(hog.aligned_points(matrices, points.astype(np.float32)))[:, None]
    axes["F"].imshow(np.clip(aligned[0], 0, 1).transpose(1, 2, 0))
    axes["F"].set_title(f"aligned and masked, {hog.SIZE} px: what HOG is taken of", fontsize=7)
    axes["F"].axis("off")
    _save(figure, "crops.png")


def depth(frame: U8, found: FrameResult) -> None:
    """A mesh on the photograph, and its y over its z."""
    figure, (front, side) = plt.subplots(1, 2, figsize=(8, 4.2), layout="constrained", width_ratios=(3, 2))
    _frame(front, draw(*_shown(frame, found)))
    front.set(xlabel="x (px)", ylabel="y (px)", title="mesh_x, mesh_y on the frame")
    assert found.mesh_xyz_px is not None
    points = found.mesh_xyz_px[0, : len(canonical_face().vertices_cm)]
    side.triplot(points[:, 2], points[:, 1], canonical_face().triangles, lw=0.3, color="#3070d0")
    nose = points[1]
    side.plot(nose[2], nose[1], "o", color="#d03030", ms=4)
    side.annotate(f"tip of the nose, z = {nose[2]:.1f}", (nose[2], nose[1]), (nose[2], nose[1] + 52), color="#d03030")
    side.set(
        xlabel="mesh_z (px): smaller is nearer to the camera",
        title="the same mesh from its side",
        aspect="equal",
        ylim=(195, 60),
    )
    side.grid(alpha=0.3)
    _save(figure, "mesh.png")


def signs() -> None:
    """MediaPipe's canonical face turned by each angle both ways, with the axes and arrows of our overlays."""
    figure, axes = plt.subplots(2, 5, figsize=(9, 4.3), layout="constrained")
    for row, sign in enumerate((1.0, -1.0)):
        angle = sign * ANGLE
        for column, name in enumerate(("Pitch", "Roll", "Yaw")):
            pose = [angle if k == column else 0.0 for k in range(3)]
            _turned(axes[row, column], f"{name} = {angle:+}", pose, None)
        _turned(axes[row, 3], f"gaze_pitch = {angle:+}", None, [angle, 0.0, ANGLE])
        _turned(axes[row, 4], f"gaze_yaw = {angle:+}", None, [0.0, angle, ANGLE])
    _save(figure, "signs.png")


def _turned(axes: Any, title: str, pose: list[float] | None, gaze: list[float] | None) -> None:
    side = 480
    turned = canonical_face().vertices_cm @ rotation_of(*(pose or (0.0, 0.0, 0.0))).T
    mesh = turned * [19.0, -19.0, -19.0] + [side / 2, side / 2, 0.0]
    whole = np.full((1, MESH_POINTS, 3), np.nan, np.float32)
    whole[0, : len(mesh)] = mesh
    low, high = mesh[:, :2].min(axis=0), mesh[:, :2].max(axis=0)
    values = {
        "boxes_xyxy_px": np.array([[*low, *high]], np.float32),
        "scores": np.ones(1, np.float32),
        "mesh_xyz_px": whole,
        "landmarks_xy_px": whole[:, list(DLIB68_FROM_MESH), :2],
    }
    if pose is not None:
        values["pose"] = np.array([[*pose, 0, 0, 0]], np.float32)
    if gaze is not None:
        values["gaze_rad"] = np.array([gaze], np.float32)
    rect = np.array([[*low, *(high - low)]], np.float32)
    canvas = np.full((side, side, 3), 40, np.uint8)
    axes.imshow(draw(canvas, FrameResult(0, "", (side, side), rect, values)))
    axes.set_title(title)
    axes.axis("off")


def _shown(frame: U8, found: FrameResult) -> tuple[U8, FrameResult]:
    """The part of a frame that is shown, and its faces in pixels of that (overlays enlarge small frames, lines stay thin)."""
    rows, columns = SHOWN
    corner = np.array([columns.start, rows.start], np.float32)
    values = dict(found.values)
    for name in values.keys() & {value.name for value in VALUES.values() if value.points}:
        points = values[name].copy()
        if name == "boxes_xyxy_px":
            points -= np.tile(corner, 2)
        else:
            points[..., :2] -= corner
        values[name] = points
    rects = found.facerects_xywh_px - np.array([*corner, 0, 0], np.float32)
    return np.ascontiguousarray(frame[SHOWN]), replace(found, facerects_xywh_px=rects, values=values)


def _frame(axes: Any, image: U8) -> None:
    """The part of a frame that is shown, its ruler in pixels of the whole (a pixel's centre is its whole number)."""
    rows, columns = SHOWN
    edges = (columns.start - 0.5, columns.stop - 0.5, rows.stop - 0.5, rows.start - 0.5)
    axes.imshow(image, extent=edges)
    axes.set_xlim(edges[0], edges[1])
    axes.set_ylim(edges[2], edges[3])


def _said(axes: Any, text: str, at: tuple[float, float], off: tuple[float, float]) -> None:
    axes.annotate(
        text,
        at,
        (at[0] + off[0], at[1] + off[1]),
        color="white",
        bbox=_DARK,
        arrowprops={"arrowstyle": "-", "color": "white"},
    )


def _save(figure: Any, name: str) -> None:
    data = io.BytesIO()
    figure.savefig(data)
    plt.close(figure)
    # few colours: a page's picture, not a measurement
    image = Image.open(data).convert("RGB").quantize(200, dither=Image.Dither.NONE)
    image.save(PICTURES / name, optimize=True)


if __name__ == "__main__":
    click.command()(main)()
