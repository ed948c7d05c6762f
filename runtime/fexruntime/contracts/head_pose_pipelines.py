"""Pipeline rows: head pose by TokenHPE, MediaPipe's FaceMesh, and NLML_HPE, which reads its mesh."""

from __future__ import annotations

from fexruntime.contracts import facemesh as M
from fexruntime.contracts import groups as G
from fexruntime.contracts import head_pose_networks as H
from fexruntime.contracts import labels as L
from fexruntime.contracts import networks as N
from fexruntime.contracts.schema import AxisMap, Choice, Crop, Group, Pipeline, Stage

TOKENHPE_CROP = Crop("centre", size=224, expand=1.7, resize=250)
BLAZEFACE_INPUT = Crop("letterbox", size=M.DETECTOR_SIDE, expand=1.0)
FACEMESH_CROP = Crop("rotated", size=M.MESH_SIDE, expand=M.REGION_SCALE)

_TOKENHPE = Pipeline(
    name="tokenhpe",
    contracts=("tokenhpe-1",),
    title="TokenHPE",
    # any finder serves: TokenHPE has none, its test reads a whole frame, its demonstration took OpenCV's Haar cascade
    finder=G.finder(N.RETINAFACE_MOBILENET025, N.RETINAFACE_R34),
    stages=(
        Stage(
            "rotation",
            (Choice(H.TOKENHPE.name, (TOKENHPE_CROP,)),),
            "rotation",
            ("pose", "rotation", "token_rotations"),
            # Euler's angles of the matrix are (pitch, yaw, roll) as 300W-LP has them, roll clockwise in the picture
            (AxisMap("pose", (0, 2, 1), (1.0, -1.0, 1.0)),),
            "head rotation",
        ),
    ),
    rect=None,
    groups=(
        G.FACEBOX,
        Group("pose", "pose", L.POSE[:3], feat="facepose_columns"),
        Group("rotation", "rotation", L.ROTATION),
        G.FRAME_SIZE,
        G.INPUT,
        G.FRAME,
    ),
    pose_order="xyz",
    test_region="frame",
)

_MESH = ("mesh_xyz_px", "landmarks_xy_px", "presence")
_BLAZEFACE = Stage(
    "faces",
    (Choice(H.BLAZEFACE.name, (BLAZEFACE_INPUT,)),),
    "blazeface",
    ("boxes_xyxy_px", "scores", "keypoints_xy_px", "region_xy_px"),
    title="finds the faces",
)
_FACEMESH_STAGES = (
    Stage("mesh", (Choice(H.FACEMESH.name, (FACEMESH_CROP,)),), "facemesh", _MESH, title="the mesh and its landmarks"),
    Stage(
        "refine",
        (Choice(H.FACEMESH_ATTENTION.name, (FACEMESH_CROP,)),),
        "facemesh-refined",
        _MESH,
        title="finer lips and eyes, and irises, in the mesh",
        optional=True,
    ),
    Stage("presence", (Choice(None, ("presence",)),), "presence", ("keep",), title="drops what is no face"),
)

_FACEMESH = Pipeline(
    name="facemesh",
    contracts=("mediapipe-0.10",),
    title="FaceMesh",
    follow_by=("mesh_xyz_px", "presence"),
    finder=_BLAZEFACE,
    stages=(
        *_FACEMESH_STAGES,
        Stage("pose", (Choice(None, ("mesh_xyz_px",)),), "face-geometry", ("pose",), title="head pose"),
    ),
    rect=None,
    groups=(
        G.FACEBOX,
        G.LANDMARKS,
        Group("mesh", "mesh_xyz_px", L.MESH_XYZ, planar=True),
        Group("pose", "pose", L.POSE[:3], feat="facepose_columns"),
        G.FRAME_SIZE,
        G.INPUT,
        G.FRAME,
    ),
)

_AXES = ("yaw", "pitch", "roll")
_NLML_HPE = Pipeline(
    name="nlml_hpe",
    contracts=("nlml-1",),
    title="NLML_HPE",
    follow_by=("mesh_xyz_px", "presence"),
    finder=_BLAZEFACE,
    stages=(
        *(stage for stage in _FACEMESH_STAGES if not stage.optional),
        Stage(
            "features", (Choice(None, ("mesh_xyz_px",)),), "mesh-features", ("mesh_features",), title="what it reads"
        ),
        Stage(
            "encoder",
            (Choice(H.NLML_ENCODER.name, ("mesh_features",)),),
            "thirds",
            tuple(f"latent_{axis}" for axis in _AXES),
            title="encodes the mesh",
        ),
        *(
            Stage(
                axis,
                (Choice(network.name, (f"latent_{axis}",)),),
                "as-is",
                (f"raw_{axis}",),
                title=f"{axis} of the head",
            )
            for axis, network in zip(_AXES, (H.NLML_YAW, H.NLML_PITCH, H.NLML_ROLL), strict=True)
        ),
        Stage(
            "pose",
            (Choice(None, tuple(f"raw_{axis}" for axis in _AXES)),),
            "signed",
            ("pose",),
            # (yaw, pitch, roll) of 300W-LP, to which its tester compares it: roll clockwise in the picture
            (AxisMap("pose", (1, 2, 0), (1.0, -1.0, 1.0)),),
            "head pose",
        ),
    ),
    rect=None,
    groups=(
        G.FACEBOX,
        Group("pose", "pose", L.POSE[:3], feat="facepose_columns"),
        *(Group(f"raw {axis}", f"raw_{axis}", (f"raw_{axis}",)) for axis in _AXES),
        G.FRAME_SIZE,
        G.INPUT,
        G.FRAME,
    ),
)

ROWS = (_TOKENHPE, _FACEMESH, _NLML_HPE)
