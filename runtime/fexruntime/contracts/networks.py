"""Network rows. Where nothing is recorded, a field is None.

Revisions and digests were published by third parties that pin these files; they were recorded, not downloaded, here
(the packaged file's alone was computed). Licences are those of the weights, as py-feat's own model page states them
(October 2026), and are stricter than the code's: read them before you ship a bundle.
"""

from __future__ import annotations

from dataclasses import replace

from fexruntime.contracts import detectorv1_networks, head_pose_networks
from fexruntime.contracts.img2pose import ROI_LEVELS
from fexruntime.contracts.labels import (
    AUS,
    BLENDSHAPES,
    EMBEDDING_SIZE,
    EMOTIONS_V2,
    LANDMARKS,
    MESH_POINTS,
)
from fexruntime.contracts.schema import Network, Preprocessing, Resize, Tensor, WeightsFile

_NC = "non-commercial research"
_UNRESOLVED = "unresolved"
_FRAMES = (Tensor("frames", ("batch", 3, "height", "width"), "preprocessed RGB pixels, planar"),)
_CHIPS = (Tensor("chips", ("faces", 3, "chip", "chip"), "face crops, RGB in [0,1], planar"),)
_DETECTIONS = (
    Tensor("loc", ("batch", "anchors", 4), "box deltas of each anchor: dx, dy, log dw, log dh over the variances"),
    Tensor("conf", ("batch", "anchors", 2), "probability of background and of face"),
    Tensor("landmarks", ("batch", "anchors", 10), "deltas of five points of each anchor"),
)
_EMBEDDING = (Tensor("embedding", ("faces", EMBEDDING_SIZE), "identity embedding"),)
_DETECTOR_PREPROCESSING = Preprocessing(mean=(123.0, 117.0, 104.0))

RETINAFACE_R34 = Network(
    name="retinaface-r34",
    title="RetinaFace face detector, ResNet-34",
    files=(
        WeightsFile(
            "py-feat/retinaface_r34",
            "retinaface_r34.safetensors",
            hub_filename="model.safetensors",
            revision="2e4495d934ed359ae8ddc0946d82f85e1e328e52",
            sha256="f339890a869284bb39dc16ed6f52acc21d74a73d6e419088697e46ee0b54eaf2",
            size_bytes=88_606_408,
        ),
    ),
    licence="MIT",
    licence_note="trained on WIDER FACE, whose images are CC BY-NC-ND",
    inputs=_FRAMES,
    outputs=_DETECTIONS,
    preprocessing=_DETECTOR_PREPROCESSING,
)

RETINAFACE_MOBILENET025 = Network(
    name="retinaface-mobilenet025",
    title="RetinaFace face detector, MobileNet-0.25",
    files=(
        WeightsFile(
            "biubug6/Pytorch_Retinaface",
            "retinaface_mnet025.safetensors",
            size_bytes=1_760_200,
            sha256="6b84b2a9dc553c743260b755ce2de139aa562990e8fbe03f5ce600953070cbe4",
            packaged=True,
        ),
    ),
    licence="MIT",
    licence_note="weights by biubug6/Pytorch_Retinaface, shipped with fexport; trained on WIDER FACE, whose images are CC BY-NC-ND",
    weights_colour_order="BGR",
    inputs=_FRAMES,
    outputs=_DETECTIONS,
    preprocessing=_DETECTOR_PREPROCESSING,
)

_PYRAMID = tuple(
    Tensor(f"p{k}", ("batch", 256, f"height_{k}", f"width_{k}"), f"feature map, a cell is {2**k} pixels")
    for k in ROI_LEVELS
)
_REGIONS = tuple(
    Tensor(f"regions_{k}", (f"regions_{k}", 5), f"which frame of the batch, then x1, y1, x2, y2: read from p{k}")
    for k in ROI_LEVELS
)
IMG2POSE = Network(
    name="img2pose",
    title="img2pose face detector: features and proposals, ResNet-18 FPN",
    files=(
        WeightsFile("py-feat/img2pose", "model.safetensors"),
        WeightsFile("py-feat/img2pose", "config.json"),
    ),
    licence="CC BY-NC 4.0",
    licence_note="weights by vitoralbiero/img2pose: non-commercial; trained on WIDER FACE, whose images are CC BY-NC-ND",
    inputs=_FRAMES,
    outputs=(
        Tensor("objectness", ("batch", "anchors"), "logit of each anchor: three a cell, row by row, P2 to P6"),
        Tensor(
            "deltas",
            ("batch", "anchors", 4),
            "of each anchor: dx, dy over its size, log of width and height over its own",
        ),
        *_PYRAMID,
    ),
    preprocessing=Preprocessing(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
    optional_keys=("num_batches_tracked",),
)
IMG2POSE_SCORES = replace(
    IMG2POSE,
    name="img2pose-scores",
    title="img2pose face detector: which proposals are faces",
    inputs=(*_PYRAMID, *_REGIONS),
    outputs=(Tensor("conf", ("regions", 2), "probability of background and of face, regions of p2 first"),),
)
IMG2POSE_POSE = replace(
    IMG2POSE_SCORES,
    name="img2pose-pose",
    title="img2pose face detector: head pose of faces",
    outputs=(
        Tensor(
            "pose", ("regions", 6), "rotation vector in radians and translation, of a camera that looks at the region"
        ),
    ),
)

MOBILEFACENET = Network(
    name="mobilefacenet",
    title="68 landmarks, MobileFaceNet",
    files=(
        WeightsFile(
            "py-feat/mobilefacenet",
            "mobilefacenet_model_best.pth.tar",
            revision="dbb61907988fc8f82b0d0316b07fde520f6c7cc4",
            sha256="b994af026bfddbafc507a6f1c8737a9896bab20ed2b0cfb6ae90b81736970313",
        ),
    ),
    licence=_UNRESOLVED,
    licence_note="py-feat's integration is MIT; the upstream checkpoint (cunjian/pytorch_face_landmark) has no grant of its own",
    inputs=_CHIPS,
    outputs=(
        Tensor("landmarks", ("faces", 2 * LANDMARKS), "x0, y0, x1, y1, … as fractions of the crop (dlib's 68 points)"),
    ),
)

POSE_MLP = Network(
    name="pose-mlp",
    title="head pose from 68 landmarks, Pose-MLP v2",
    files=(
        WeightsFile("py-feat/pose_mlp_v2", "pose_mlp_v2.safetensors"),
        WeightsFile("py-feat/pose_mlp_v2", "pose_mlp_v2.json"),
    ),
    licence="MIT, permission to be assessed",
    licence_note="labelled MIT, but distilled from img2pose, which is CC BY-NC 4.0",
    inputs=(Tensor("landmarks_xy", ("faces", LANDMARKS, 2), "landmarks in pixels"),),
    outputs=(Tensor("pose", ("faces", 6), "raw Pitch, Roll, Yaw in radians, then X, Y, Z"),),
)

ARCFACE = Network(
    name="arcface",
    title="identity embedding, ArcFace IResNet-50",
    files=(
        WeightsFile(
            "py-feat/arcface_r50",
            "arcface_r50.safetensors",
            revision="1e2637bc33aef12c2eeec84f76080509f9d5ab0d",
            sha256="911ba0172feb170e53f2eb94fb2f29099bc722cb82a2c14147bbedd253056313",
            size_bytes=174_387_800,
        ),
    ),
    licence=_NC,
    licence_note="code MIT; weights InsightFace buffalo_l w600k_r50: non-commercial research only",
    inputs=_CHIPS,
    outputs=_EMBEDDING,
    preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    resize=Resize(112, "bilinear"),
    optional_keys=("num_batches_tracked",),
)

FACENET = Network(
    name="facenet",
    title="identity embedding, FaceNet Inception-ResNet v1",
    files=(WeightsFile("py-feat/facenet", "facenet_20180402_114759_vggface2.pth"),),
    licence="MIT",
    licence_note="weights by facenet-pytorch; VGGFace2's terms are separate",
    inputs=_CHIPS,
    outputs=_EMBEDDING,
    resize=Resize(112, "bilinear"),
)

_MULTITASK_FILES = "py-feat/face_multitask_v2"
_MULTITASK = Network(
    name="multitask",
    title="",
    files=(),
    licence=_NC,
    licence_note="its pretrained ConvNeXtV2 backbone is CC BY-NC 4.0; Gaze360 and ETH-XGaze exclude commercial use of models trained on them",
    inputs=_CHIPS,
    outputs=(
        Tensor("au", ("faces", len(AUS)), "probability of each action unit"),
        Tensor("emotion", ("faces", len(EMOTIONS_V2)), "probability of each emotion"),
        Tensor("valence_arousal", ("faces", 2), "valence and arousal in [-1,1]"),
        Tensor("gaze", ("faces", 2), "raw yaw and pitch in radians"),
        Tensor("pose", ("faces", 6), "raw pitch, yaw, roll in radians, then X, Y, Z"),
        Tensor("mesh", ("faces", MESH_POINTS, 3), "x and y as fractions of the chip, relative depth z"),
        Tensor("blendshapes", ("faces", len(BLENDSHAPES)), "MediaPipe's coefficients in [0,1]"),
    ),
    preprocessing=detectorv1_networks.IMAGENET,
    resize=Resize(224, "antialias"),
    optional_outputs=("blendshapes",),
)

MULTITASK_V2 = replace(
    _MULTITASK,
    name="multitask-v2",
    title="AUs, emotion, gaze, pose, mesh, blendshapes (v2.4, v2.5)",
    files=(
        WeightsFile(
            _MULTITASK_FILES,
            "face_multitask_v2.safetensors",
            others=(WeightsFile(_MULTITASK_FILES, "face_multitask_v2.pt"),),
        ),
    ),
    refused_flags=("gaze_eye_roi", "gaze_pose_6d", "gaze_head_frame", "gaze_hidden", "gaze_bins"),
    default_flags=(("mesh_normalized", True),),
    # py-feat 2.0.3 divides the mesh by the image size before the emotion and gaze heads even where it is in [0,1]
    # already; 2.1 does not. Emotions, valence, arousal and gaze of the same weights differ between the two.
    forced_flags=(("unified_mesh_normalized", False),),
)
MULTITASK_V28 = replace(
    _MULTITASK,
    name="multitask-v28",
    title="AUs, emotion, gaze with eye windows, pose, mesh, blendshapes (v2.8)",
    files=(
        WeightsFile(
            _MULTITASK_FILES,
            "face_multitask_v28.safetensors",
            others=(
                WeightsFile(_MULTITASK_FILES, "face_multitask_v28.pt"),
                WeightsFile(  # v2.7: the same architecture, earlier weights
                    _MULTITASK_FILES,
                    "face_multitask_v27.safetensors",
                    revision="7c18f8da048b90f7bf135d6129bcf349960ec32f",
                    sha256="e3c870e22ba041d2aeb11ae7eaaf832fbb869413bca21d7486a805b8a4ddc8bd",
                    size_bytes=166_817_444,
                ),
            ),
        ),
    ),
)

NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        RETINAFACE_R34,
        RETINAFACE_MOBILENET025,
        IMG2POSE,
        IMG2POSE_SCORES,
        IMG2POSE_POSE,
        MULTITASK_V2,
        MULTITASK_V28,
        MOBILEFACENET,
        POSE_MLP,
        ARCFACE,
        FACENET,
        *detectorv1_networks.ROWS,
        *head_pose_networks.ROWS,
    )
}
