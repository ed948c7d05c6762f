"""Rows of the networks of TokenHPE, of MediaPipe's FaceMesh, and of NLML_HPE, which reads its mesh.

Pins and licences: see `networks`; MediaPipe's files are in the package.
"""

from __future__ import annotations

from fexruntime.contracts.detectorv1_networks import IMAGENET
from fexruntime.contracts.facemesh import MESH_POINTS as FACEMESH_POINTS
from fexruntime.contracts.labels import ORIENTATIONS
from fexruntime.contracts.schema import Network, Preprocessing, Tensor, WeightsFile

_CHIPS = (Tensor("chips", ("faces", 3, "chip", "chip"), "face crops, RGB in [0,1], planar"),)

TOKENHPE = Network(
    name="tokenhpe",
    title="head rotation, TokenHPE v1 (ViT-B/16, three decoder layers, nine orientation tokens)",
    files=(
        WeightsFile(
            "zc2023/TokenHPE", "TokenHPEv1-ViTB-224_224-lyr3.tar", url="https://github.com/zc2023/TokenHPE (its README)"
        ),
    ),
    licence="MIT, permission to be assessed",
    licence_note="the code is MIT; the weights carry no grant of their own and were trained on 300W-LP, whose terms are separate",
    inputs=_CHIPS,
    outputs=(
        Tensor("rotation", ("faces", 3, 3), "rotation matrix of the head"),
        Tensor("tokens", ("faces", ORIENTATIONS, 3, 3), "rotation matrix of each orientation token"),
    ),
    preprocessing=IMAGENET,
)

_MEDIAPIPE = "mediapipe 0.10.21 (PyPI)"
_APACHE = "Apache-2.0"
_BY_GOOGLE = "by The MediaPipe Authors, shipped with fexport; MediaPipe's model cards say what each is made for"


def _in_wheel(name: str, sha256: str, size_bytes: int) -> tuple[WeightsFile, ...]:
    return (WeightsFile(_MEDIAPIPE, f"{name}.tflite", sha256=sha256, size_bytes=size_bytes, packaged=True),)


BLAZEFACE = Network(
    name="blazeface",
    title="face detector, MediaPipe BlazeFace short range",
    files=_in_wheel(
        "face_detection_short_range", "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8", 229_714
    ),
    licence=_APACHE,
    licence_note=_BY_GOOGLE,
    inputs=_CHIPS,
    outputs=(
        Tensor("regressors", ("faces", 896, 16), "of each anchor: centre, size and six points, in pixels of the input"),
        Tensor("classificators", ("faces", 896, 1), "logit of a face at each anchor"),
    ),
    preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
)
FACEMESH = Network(
    name="facemesh",
    title="468-point mesh, MediaPipe FaceMesh",
    files=_in_wheel("face_landmark", "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814", 1_242_398),
    licence=_APACHE,
    licence_note=_BY_GOOGLE,
    inputs=_CHIPS,
    outputs=(
        Tensor("mesh", ("faces", FACEMESH_POINTS, 3), "x, y, z in pixels of the crop"),
        Tensor("presence", ("faces", 1), "logit of a face in the crop"),
    ),
)
FACEMESH_ATTENTION = Network(
    name="facemesh-attention",
    title="lips, eyes and irises of the mesh, MediaPipe FaceMesh with attention",
    files=_in_wheel(
        "face_landmark_with_attention", "e06a804e0144f9929eda782122916b35d60c697c3c9344013ca2bbe76a6ce2b4", 2_495_106
    ),
    licence=_APACHE,
    licence_note=_BY_GOOGLE,
    inputs=_CHIPS,
    outputs=(
        Tensor("mesh", ("faces", FACEMESH_POINTS, 3), "x, y, z in pixels of the crop"),
        Tensor("lips", ("faces", 80, 2), "x, y in pixels of the crop"),
        Tensor("left_eye", ("faces", 71, 2), "x, y in pixels of the crop"),
        Tensor("right_eye", ("faces", 71, 2), "x, y in pixels of the crop"),
        Tensor("left_iris", ("faces", 5, 2), "x, y in pixels of the crop"),
        Tensor("right_iris", ("faces", 5, 2), "x, y in pixels of the crop"),
        Tensor("presence", ("faces", 1), "logit of a face in the crop"),
    ),
)

_NLML = "MahdiGhafoorian/NLML_HPE"
_NLML_LATENT = 3


def _nlml(
    name: str, title: str, filename: str, sha256: str | None, size: int | None, reads: Tensor, gives: Tensor
) -> Network:
    return Network(
        name=f"nlml-{name}",
        title=title,
        # the combined model, where somebody has it, is TorchScript: code, which is not run, so it is refused with that reason
        files=(
            WeightsFile(
                _NLML,
                filename,
                sha256=sha256,
                size_bytes=size,
                others=(WeightsFile(_NLML, "combined_model_scripted.pth"),),
            ),
        ),
        licence="MIT",
        licence_note="on GitHub, not the hub; the published encoder could not be had when this was written, its three heads could",
        inputs=(reads,),
        outputs=(gives,),
    )


NLML_ENCODER = _nlml(
    "encoder",
    "head pose from the mesh, NLML_HPE's encoder",
    "Encoder.pth",
    None,
    None,
    Tensor("features", ("faces", 3 * FACEMESH_POINTS), "mesh about its tip of the nose, in distances of the eyes"),
    Tensor("latent", ("faces", 3 * _NLML_LATENT), "what the heads read: yaw's, pitch's, roll's"),
)
NLML_YAW, NLML_PITCH, NLML_ROLL = (
    _nlml(
        axis,
        f"head pose from the mesh, NLML_HPE's {axis} head",
        f"{axis}_network.pth",
        sha256,
        size,
        Tensor("latent", ("faces", _NLML_LATENT), "its part of the encoder's answer"),
        Tensor("angle", ("faces", 1), f"{axis} in radians"),
    )
    for axis, sha256, size in (
        ("yaw", "7e9f144dbc53652e3ebe16d2fae3f43b68b9f2925b55a51eaee0fa51332f2011", 302_960),
        ("pitch", "898bdefbce8b46b51fa80465cdd7f65acbed83837fe19275e2469be36eed78d7", 302_988),
        ("roll", "2034740fb6dc47b4937a53d799eb696676ee4dff9f6261dd1908eb69620abd71", 302_974),
    )
)

ROWS = (TOKENHPE, BLAZEFACE, FACEMESH, FACEMESH_ATTENTION, NLML_ENCODER, NLML_YAW, NLML_PITCH, NLML_ROLL)
