"""Pipeline rows: py-feat's detectors, in the two sets of conventions that their versions follow."""

from __future__ import annotations

from fexruntime.contracts import labels as L
from fexruntime.contracts import networks as N
from fexruntime.contracts.schema import AxisMap, Network, Pipeline
from fexruntime.errors import InputError

_DETECTORS = (N.RETINAFACE_R34.name, N.RETINAFACE_MOBILENET025.name)
_TAIL = (*L.FRAME_SIZE, *L.SOURCE, L.IDENTITY)

_V2_COLUMNS = (
    *L.FACEBOX,
    *L.LANDMARK_XY,
    *L.POSE,
    *L.AUS,
    *L.EMOTIONS_V2,
    *L.VALENCE_AROUSAL,
    *L.GAZE,
    *L.EMBEDDING,
    *L.MESH_XYZ,
    *L.BLENDSHAPES,
    *_TAIL,
)
_V1_COLUMNS = (
    *L.FACEBOX,
    *L.LANDMARK_XY,
    *L.POSE,
    *L.AUS,
    *L.EMOTIONS_V1,
    *L.EMBEDDING,
    *L.GAZE,
    *_TAIL,
)

CONTRACTS = ("pyfeat-2.0", "pyfeat-2.1")
"""The first is the default: it is what the published Detectorv2 source and model card describe."""


def _detectorv2(contract: str, reference: str, network: Network, pitch: float, gaze_pitch: float) -> Pipeline:
    return Pipeline(
        name="detectorv2",
        contract=contract,
        reference=reference,
        faces=_DETECTORS,
        roles=(("multitask", network.name),),
        identity=(N.ARCFACE.name, N.FACENET.name),
        crop=N.MULTITASK_CHIP,
        # raw pose is (pitch, yaw, roll, X, Y, Z); raw gaze is (yaw, pitch)
        pose=AxisMap(L.POSE, (0, 2, 1, 3, 4, 5), (pitch, -1.0, 1.0, 1.0, 1.0, 1.0)),
        gaze=AxisMap(L.GAZE[:2], (1, 0), (gaze_pitch, 1.0)),
        columns=_V2_COLUMNS,
        fex_info=(
            ("detector", "Detectorv2"),
            ("face_model", "retinaface"),
            ("facepose_model", "multitask"),
            ("gaze_model", "multitask"),
        ),
    )


def _detectorv1(contract: str, reference: str) -> Pipeline:
    return Pipeline(
        name="detectorv1",
        contract=contract,
        reference=reference,
        faces=_DETECTORS,
        roles=(("landmarks", N.MOBILEFACENET.name), ("pose", N.POSE_MLP.name)),
        identity=(N.ARCFACE.name, N.FACENET.name),
        crop=N.LANDMARK_CROP,
        # raw pose is img2pose's (Pitch, Roll, Yaw, X, Y, Z), whose roll and yaw are mislabelled
        pose=AxisMap(L.POSE, (0, 2, 1, 3, 4, 5), (-1.0, -1.0, 1.0, 1.0, 1.0, 1.0)),
        gaze=None,
        columns=_V1_COLUMNS,
        fex_info=(
            ("detector", "Feat"),
            ("face_model", "retinaface"),
            ("landmark_model", "mobilefacenet"),
            ("facepose_model", "pose_mlp"),
        ),
        absent=("au", "emotion", "gaze"),
    )


def _faces(contract: str, reference: str) -> Pipeline:
    return Pipeline(
        name="faces",
        contract=contract,
        reference=reference,
        faces=(N.RETINAFACE_MOBILENET025.name, N.RETINAFACE_R34.name),
        roles=(),
        identity=(),
        crop=None,
        pose=None,
        gaze=None,
        columns=(*L.FACEBOX, *L.FRAME_SIZE, *L.SOURCE),
    )


PIPELINES: dict[tuple[str, str], Pipeline] = {
    (row.name, row.contract): row
    for row in (
        _detectorv2("pyfeat-2.0", "py-feat 2.0.3 Detectorv2", N.MULTITASK_V2, pitch=1.0, gaze_pitch=1.0),
        _detectorv2("pyfeat-2.1", "py-feat 2.1.5 Detectorv2", N.MULTITASK_V28, pitch=-1.0, gaze_pitch=-1.0),
        _detectorv1("pyfeat-2.0", "py-feat 2.0.3 Detectorv1"),
        _detectorv1("pyfeat-2.1", "py-feat 2.1.5 Detectorv1"),
        _faces("pyfeat-2.0", "py-feat 2.0.3 face detection"),
        _faces("pyfeat-2.1", "py-feat 2.1.5 face detection"),
    )
}


def pipeline_row(name: str, contract: str) -> Pipeline:
    """The row of a pipeline under a contract; InputError names the choices if there is none."""
    try:
        return PIPELINES[name, contract]
    except KeyError:
        names = ", ".join(sorted({n for n, _ in PIPELINES}))
        raise InputError(
            f"no pipeline {name!r} under contract {contract!r}: pipelines are {names}; contracts {', '.join(CONTRACTS)}"
        ) from None


def network_row(name: str) -> Network:
    """The row of a network; InputError names the choices if there is none."""
    try:
        return N.NETWORKS[name]
    except KeyError:
        raise InputError(f"no network {name!r}: there are {', '.join(N.NETWORKS)}") from None
