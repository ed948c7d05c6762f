"""Pipeline rows: py-feat's detectors, in the two sets of conventions that their versions follow."""

from __future__ import annotations

from dataclasses import replace

from fexruntime.contracts import detectorv1_networks as V1
from fexruntime.contracts import groups as G
from fexruntime.contracts import head_pose_pipelines
from fexruntime.contracts import labels as L
from fexruntime.contracts import networks as N
from fexruntime.contracts.schema import AxisMap, Choice, Crop, Group, Network, Pipeline, Stage
from fexruntime.errors import InputError

WITH_BUGS = "pyfeat-2.1-bugs"
_PYFEAT = {"pyfeat-2.1": "py-feat 2.1.5", "pyfeat-2.0": "py-feat 2.0.3"}
REFERENCES = {
    **_PYFEAT,
    WITH_BUGS: "py-feat 2.1.5 with MobileNet's faults,",
    "tokenhpe-1": "zc2023/TokenHPE v1",
    "mediapipe-0.10": "mediapipe 0.10.21",
    "nlml-1": "MahdiGhafoorian/NLML_HPE",
}
CONTRACTS = tuple(REFERENCES)
"""The first is the default: what `pip install py-feat` gives. The third is for comparing: what py-feat does with MobileNet's
landmarks, where it should not."""

MULTITASK_CHIP = Crop("square-pad", size=256, expand=1.2)
LANDMARK_CROP = Crop("anisotropic", size=112, expand=1.2)
MOBILENET_CROP = Crop("anisotropic", size=224, expand=1.2)
NORMALISED_CROP = replace(MOBILENET_CROP, kind="anisotropic-imagenet")
EMOTION_CROP = Crop("anisotropic", size=224, expand=1.1)


def _emotion(columns: tuple[str, ...]) -> Group:
    return Group("emotion", "emotion", columns, feat="emotion_columns")


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
        finder=G.finder(N.RETINAFACE_R34, N.RETINAFACE_MOBILENET025),
        stages=(multitask, _identity(MULTITASK_CHIP)),
        rect=MULTITASK_CHIP,
        groups=(
            G.FACEBOX,
            G.LANDMARKS,
            G.POSE,
            G.AUS,
            _emotion(L.EMOTIONS_V2),
            Group("valence_arousal", "valence_arousal", L.VALENCE_AROUSAL),
            G.GAZE,
            G.EMBEDDING,
            Group("mesh", "mesh_xyz", L.MESH_XYZ, planar=True),
            Group("blendshapes", "blendshapes", L.BLENDSHAPES, feat="blendshape_columns"),
            *G.TAIL,
        ),
        pitch_up=-pitch,
        fex_info=(
            ("detector", "Detectorv2"),
            ("face_model", "retinaface"),
            ("facepose_model", "multitask"),
            ("gaze_model", "multitask"),
        ),
    )


_HOG = ("hog", "hog_points")
_IMG2POSE = Choice(
    N.IMG2POSE.name,
    decode="img2pose",
    gives=("boxes_xyxy_px", "scores", "pose"),
    axes=(_pose_axes(-1.0),),
    helpers=(("scores", N.IMG2POSE_SCORES.name), ("pose", N.IMG2POSE_POSE.name)),
    fex_info=(("face_model", "img2pose"), ("facepose_model", "img2pose")),
)

_DETECTORV1 = Pipeline(
    name="detectorv1",
    contracts=tuple(_PYFEAT),
    title="Detectorv1",
    finder=G.finder(N.RETINAFACE_R34, N.RETINAFACE_MOBILENET025, _IMG2POSE),
    stages=(
        Stage(
            "landmarks",
            (
                Choice(N.MOBILEFACENET.name, (LANDMARK_CROP,)),
                Choice(V1.MOBILENET.name, (MOBILENET_CROP,)),
                Choice(V1.PFLD.name, (LANDMARK_CROP,)),
            ),
            "landmarks-68",
            ("landmarks_xy_px", "landmarks_crop_xy"),
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
        Stage("hog", (Choice(None, (LANDMARK_CROP, "landmarks_crop_xy")),), "hog", _HOG, title="what classifiers read"),
        Stage(
            "au",
            (Choice(V1.XGB_AU.name, _HOG, called="xgb"), Choice(V1.SVM_AU.name, _HOG, called="svm")),
            "as-is",
            ("au",),
            title="action units",
        ),
        Stage(
            "emotion",
            (Choice(V1.RESMASKNET.name, (EMOTION_CROP,)), Choice(V1.SVM_EMOTION.name, _HOG, called="svm")),
            "as-is",
            ("emotion",),
            title="emotion",
        ),
        Stage(
            "gaze",
            (Choice(V1.L2CS.name, (LANDMARK_CROP,)),),
            "gaze",
            ("gaze_rad",),
            (AxisMap("gaze_rad", (0, 1), (1.0, 1.0)),),
            "gaze",
        ),
        _identity(LANDMARK_CROP),
    ),
    rect=LANDMARK_CROP,
    groups=(
        G.FACEBOX,
        G.LANDMARKS,
        G.POSE,
        G.AUS,
        _emotion(L.EMOTIONS_V1),
        G.EMBEDDING,
        G.GAZE,
        *G.TAIL,
    ),
    fex_info=(("detector", "Feat"), ("face_model", "retinaface"), ("facepose_model", "pose_mlp")),
    fex_models=(
        ("landmark_model", "landmarks"),
        ("au_model", "au"),
        ("emotion_model", "emotion"),
        ("gaze_model", "gaze"),
    ),
)

# With MobileNet's landmarks py-feat normalises the chips for everybody: gaze and identity read them so. Its classifiers on
# HOG then raise for the size of the chip, so there are none here.
_DETECTORV1_BUGS = replace(
    _DETECTORV1,
    contracts=(WITH_BUGS,),
    stages=tuple(
        replace(
            stage,
            choices=tuple(
                replace(c, reads=tuple(NORMALISED_CROP if r == LANDMARK_CROP else r for r in c.reads))
                for c in stage.choices
                if c.network != N.MOBILEFACENET.name and c.network != V1.PFLD.name and c.reads != _HOG
            ),
        )
        for stage in _DETECTORV1.stages
        if stage.role not in ("hog", "au")
    ),
)

_FACES = Pipeline(
    name="faces",
    contracts=tuple(_PYFEAT),
    title="face detection",
    finder=G.finder(N.RETINAFACE_MOBILENET025, N.RETINAFACE_R34),
    stages=(),
    rect=None,
    groups=(G.FACEBOX, G.FRAME_SIZE, G.INPUT, G.FRAME),
)

PIPELINES: list[Pipeline] = [
    _detectorv2("pyfeat-2.1", N.MULTITASK_V28, pitch=-1.0, gaze_pitch=-1.0),
    _detectorv2("pyfeat-2.0", N.MULTITASK_V2, pitch=1.0, gaze_pitch=1.0),
    _DETECTORV1,
    _DETECTORV1_BUGS,
    _FACES,
    *head_pose_pipelines.ROWS,
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
