"""Pipeline rows: py-feat's detectors, in the two sets of conventions that their versions follow."""

from __future__ import annotations

from fexruntime.contracts import facemesh as M
from fexruntime.contracts import labels as L
from fexruntime.contracts import networks as N
from fexruntime.contracts.schema import AxisMap, Choice, Crop, Group, Network, Pipeline, Stage
from fexruntime.errors import InputError

_PYFEAT = {"pyfeat-2.0": "py-feat 2.0.3", "pyfeat-2.1": "py-feat 2.1.5"}
REFERENCES = {**_PYFEAT, "mediapipe-0.10": "mediapipe 0.10.21", "nlml-1": "MahdiGhafoorian/NLML_HPE"}
CONTRACTS = tuple(REFERENCES)
"""The first is the default: it is what the published Detectorv2 source and model card describe."""

MULTITASK_CHIP = Crop("square-pad", size=256, expand=1.2)
LANDMARK_CROP = Crop("anisotropic", size=112, expand=1.2)

BLAZEFACE_INPUT = Crop("letterbox", size=M.DETECTOR_SIDE, expand=1.0)
FACEMESH_CROP = Crop("rotated", size=M.MESH_SIDE, expand=M.REGION_SCALE)

FACEBOX = Group("facebox", "facebox", L.FACEBOX, feat="facebox_columns")
_LANDMARKS = Group("landmarks", "landmarks_xy_px", L.LANDMARK_XY, planar=True, feat="landmark_columns")
_POSE = Group("pose", "pose", L.POSE, feat="facepose_columns")
_AUS = Group("au", "au", L.AUS, feat="au_columns")
_GAZE = Group("gaze", "gaze_rad", L.GAZE, feat="gaze_columns")
_EMBEDDING = Group("embedding", "embedding", L.EMBEDDING, feat="identity_columns")
_FRAME_SIZE = Group("frame_size", "frame_size", L.FRAME_SIZE, dtype="float64")
_INPUT = Group("input", "input", L.SOURCE[:1], dtype="text")
_FRAME = Group("frame", "frame", L.SOURCE[1:], dtype="int64")
_IDENTITY = Group("identity", "embedding", (L.IDENTITY,), dtype="text")
_TAIL = (_FRAME_SIZE, _INPUT, _FRAME, _IDENTITY)


def _emotion(columns: tuple[str, ...]) -> Group:
    return Group("emotion", "emotion", columns, feat="emotion_columns")


def _finder(*networks: Network) -> Stage:
    choices = tuple(Choice(n.name) for n in networks)
    return Stage("faces", choices, "retinaface", ("boxes_xyxy_px", "scores", "points_xy_px"), title="finds the faces")


def _identity(crop: Crop) -> Stage:
    choices = (Choice(N.ARCFACE.name, (crop,)), Choice(N.FACENET.name, (crop,)))
    return Stage("identity", choices, "as-is", ("embedding",), title="embeddings and names")


def _pose_axes(pitch: float) -> AxisMap:
    return AxisMap("pose", (0, 2, 1, 3, 4, 5), (pitch, -1.0, 1.0, 1.0, 1.0, 1.0))


def _detectorv2(contract: str, network: Network, pitch: float, gaze_pitch: float) -> Pipeline:
    # raw pose is (pitch, yaw, roll, X, Y, Z), its pitch positive down; raw gaze is (yaw, pitch)
    axes = (_pose_axes(pitch), AxisMap("gaze_rad", (1, 0), (gaze_pitch, 1.0)))
    gives = (
        "landmarks_xy_px", "pose", "au", "emotion", "valence_arousal", "gaze_rad", "mesh_xyz", "blendshapes",
    )  # fmt: skip
    multitask = Stage(
        "multitask",
        (Choice(network.name, (MULTITASK_CHIP,)),),
        "multitask",
        gives,
        axes,
        "mesh, landmarks, pose, AUs, emotion, gaze, blendshapes",
    )
    return Pipeline(
        name="detectorv2",
        contracts=(contract,),
        title="Detectorv2",
        finder=_finder(N.RETINAFACE_R34, N.RETINAFACE_MOBILENET025),
        stages=(multitask, _identity(MULTITASK_CHIP)),
        rect=MULTITASK_CHIP,
        groups=(
            FACEBOX,
            _LANDMARKS,
            _POSE,
            _AUS,
            _emotion(L.EMOTIONS_V2),
            Group("valence_arousal", "valence_arousal", L.VALENCE_AROUSAL),
            _GAZE,
            _EMBEDDING,
            Group("mesh", "mesh_xyz", L.MESH_XYZ, planar=True),
            Group("blendshapes", "blendshapes", L.BLENDSHAPES, feat="blendshape_columns"),
            *_TAIL,
        ),
        pitch_up=-pitch,
        fex_info=(
            ("detector", "Detectorv2"),
            ("face_model", "retinaface"),
            ("facepose_model", "multitask"),
            ("gaze_model", "multitask"),
        ),
    )


_DETECTORV1 = Pipeline(
    name="detectorv1",
    contracts=tuple(_PYFEAT),
    title="Detectorv1",
    finder=_finder(N.RETINAFACE_R34, N.RETINAFACE_MOBILENET025),
    stages=(
        Stage(
            "landmarks",
            (Choice(N.MOBILEFACENET.name, (LANDMARK_CROP,)),),
            "landmarks-68",
            ("landmarks_xy_px",),
            title="68 landmarks",
        ),
        Stage(
            "pose",
            (Choice(N.POSE_MLP.name, ("landmarks_xy_px",)),),
            "axes",
            ("pose",),
            # raw pose is img2pose's (Pitch, Roll, Yaw, X, Y, Z), whose roll and yaw are mislabelled
            (_pose_axes(-1.0),),
            "head pose",
        ),
        _identity(LANDMARK_CROP),
    ),
    rect=LANDMARK_CROP,
    groups=(
        FACEBOX,
        _LANDMARKS,
        _POSE,
        _AUS,
        _emotion(L.EMOTIONS_V1),
        _EMBEDDING,
        _GAZE,
        *_TAIL,
    ),
    fex_info=(
        ("detector", "Feat"),
        ("face_model", "retinaface"),
        ("landmark_model", "mobilefacenet"),
        ("facepose_model", "pose_mlp"),
    ),
)

_FACES = Pipeline(
    name="faces",
    contracts=tuple(_PYFEAT),
    title="face detection",
    finder=_finder(N.RETINAFACE_MOBILENET025, N.RETINAFACE_R34),
    stages=(),
    rect=None,
    groups=(FACEBOX, _FRAME_SIZE, _INPUT, _FRAME),
)

_MESH = ("mesh_xyz_px", "landmarks_xy_px", "presence")
_BLAZEFACE = Stage(
    "faces",
    (Choice(N.BLAZEFACE.name, (BLAZEFACE_INPUT,)),),
    "blazeface",
    ("boxes_xyxy_px", "scores", "keypoints_xy_px", "region_xy_px"),
    title="finds the faces",
)
_FACEMESH_STAGES = (
    Stage("mesh", (Choice(N.FACEMESH.name, (FACEMESH_CROP,)),), "facemesh", _MESH, title="the mesh and its landmarks"),
    Stage(
        "refine",
        (Choice(N.FACEMESH_ATTENTION.name, (FACEMESH_CROP,)),),
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
    finder=_BLAZEFACE,
    stages=(
        *_FACEMESH_STAGES,
        Stage("pose", (Choice(None, ("mesh_xyz_px",)),), "face-geometry", ("pose",), title="head pose"),
    ),
    rect=None,
    groups=(
        FACEBOX,
        _LANDMARKS,
        Group("mesh", "mesh_xyz_px", L.MESH_XYZ, planar=True),
        Group("pose", "pose", L.POSE[:3], feat="facepose_columns"),
        _FRAME_SIZE,
        _INPUT,
        _FRAME,
    ),
)

_AXES = ("yaw", "pitch", "roll")
_NLML_HPE = Pipeline(
    name="nlml_hpe",
    contracts=("nlml-1",),
    title="NLML_HPE",
    finder=_BLAZEFACE,
    stages=(
        *(stage for stage in _FACEMESH_STAGES if not stage.optional),
        Stage(
            "features", (Choice(None, ("mesh_xyz_px",)),), "mesh-features", ("mesh_features",), title="what it reads"
        ),
        Stage(
            "encoder",
            (Choice(N.NLML_ENCODER.name, ("mesh_features",)),),
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
            for axis, network in zip(_AXES, (N.NLML_YAW, N.NLML_PITCH, N.NLML_ROLL), strict=True)
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
        FACEBOX,
        Group("pose", "pose", L.POSE[:3], feat="facepose_columns"),
        *(Group(f"raw {axis}", f"raw_{axis}", (f"raw_{axis}",)) for axis in _AXES),
        _FRAME_SIZE,
        _INPUT,
        _FRAME,
    ),
)

PIPELINES: list[Pipeline] = [
    _detectorv2("pyfeat-2.0", N.MULTITASK_V2, pitch=1.0, gaze_pitch=1.0),
    _detectorv2("pyfeat-2.1", N.MULTITASK_V28, pitch=-1.0, gaze_pitch=-1.0),
    _DETECTORV1,
    _FACES,
    _FACEMESH,
    _NLML_HPE,
]


def pipeline_row(name: str, contract: str | None = None) -> Pipeline:
    """The row of a pipeline under a contract (None: the first that has it); InputError names the choices if there is none."""
    for row in PIPELINES:
        if row.name == name and (contract is None or contract in row.contracts):
            return row
    known = [c for row in PIPELINES if row.name == name for c in row.contracts]
    if known:
        raise InputError(f"no pipeline {name!r} under contract {contract!r}: it follows {', '.join(known)}")
    raise InputError(f"no pipeline {name!r}: there are {', '.join(dict.fromkeys(row.name for row in PIPELINES))}")


def reference_of(pipeline: Pipeline, contract: str) -> str:
    """What a pipeline is held to under a contract: a library, its version, its class."""
    return f"{REFERENCES.get(contract, contract)} {pipeline.title}"


def network_row(name: str) -> Network:
    """The row of a network; InputError names the choices if there is none."""
    try:
        return N.NETWORKS[name]
    except KeyError:
        raise InputError(f"no network {name!r}: there are {', '.join(N.NETWORKS)}") from None
