"""Network rows. Sizes, digests and licences are as published; where nothing is recorded, the field is None.

Licences are those of the weights, which are stricter than the code's: read them before you ship a bundle.
"""

from __future__ import annotations

from dataclasses import replace

from fexruntime.contracts.labels import AUS, BLENDSHAPES, EMBEDDING_SIZE, EMOTIONS_V2, MESH_POINTS
from fexruntime.contracts.schema import Crop, Network, Preprocessing, Tensor, Tolerance, WeightsFile

MULTITASK_CHIP = Crop("square-pad", size=256, expand=1.2)
LANDMARK_CROP = Crop("anisotropic", size=112, expand=1.2)

UNIT_PIXELS = Preprocessing((0.0, 1.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), in_graph=True)
DETECTOR_PREPROCESSING = Preprocessing((0.0, 255.0), (123.0, 117.0, 104.0), (1.0, 1.0, 1.0), in_graph=False)
MULTITASK_PREPROCESSING = Preprocessing(
    (0.0, 1.0), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), in_graph=True, resize="256 to 224, antialiased bilinear"
)

_NC = "non-commercial"
_FRAMES = (Tensor("frames", ("batch", 3, "height", "width"), "RGB pixels 0..255 minus the mean, planar"),)
_DETECTIONS = (
    Tensor("loc", ("batch", "anchors", 4), "box deltas of each anchor: dx, dy, log dw, log dh over the variances"),
    Tensor("conf", ("batch", "anchors", 2), "probability of background and of face"),
    Tensor("landmarks", ("batch", "anchors", 10), "deltas of five points of each anchor"),
)
_DETECTOR_TOLERANCES = (
    Tolerance("conf", "probability", 1e-4),
    Tolerance("loc", "relative", 1e-4),
    Tolerance("landmarks", "relative", 1e-4),
)
_EMBEDDING = (Tensor("embedding", ("faces", EMBEDDING_SIZE), "identity embedding"),)
_EMBEDDING_TOLERANCES = (Tolerance("embedding", "cosine", 1e-6), Tolerance("embedding", "relative", 1e-4))
_CHIPS = (Tensor("chips", ("faces", 3, "chip", "chip"), "face crops, RGB in [0,1], planar"),)

RETINAFACE_R34 = Network(
    name="retinaface-r34",
    title="RetinaFace face detector, ResNet-34",
    files=(
        WeightsFile(
            "py-feat/retinaface_r34",
            "retinaface_r34.safetensors",
            hub_filename="model.safetensors",
            size_bytes=88_606_408,
        ),
    ),
    licence="MIT",
    licence_note="weights by yakhyo/retinaface-pytorch; trained on WIDER FACE, whose images are for research",
    inputs=_FRAMES,
    outputs=_DETECTIONS,
    preprocessing=DETECTOR_PREPROCESSING,
    tolerances=_DETECTOR_TOLERANCES,
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
    licence_note="weights by biubug6/Pytorch_Retinaface, shipped with fexport; trained on WIDER FACE",
    weights_colour_order="BGR",
    inputs=_FRAMES,
    outputs=_DETECTIONS,
    preprocessing=DETECTOR_PREPROCESSING,
    tolerances=_DETECTOR_TOLERANCES,
)

MOBILEFACENET = Network(
    name="mobilefacenet",
    title="68 landmarks, MobileFaceNet",
    files=(WeightsFile("py-feat/mobilefacenet", "mobilefacenet_model_best.pth.tar"),),
    licence="not stated",
    licence_note="weights published by cunjian/pytorch_face_landmark without a licence of their own",
    inputs=(Tensor("chips", ("faces", 3, LANDMARK_CROP.size, LANDMARK_CROP.size), _CHIPS[0].meaning),),
    outputs=(Tensor("landmarks", ("faces", 136), "x0, y0, x1, y1, … as fractions of the crop (dlib's 68 points)"),),
    preprocessing=UNIT_PIXELS,
    tolerances=(Tolerance("landmarks", "pixels", 1e-2),),
)

POSE_MLP = Network(
    name="pose-mlp",
    title="head pose from 68 landmarks, Pose-MLP v2",
    files=(
        WeightsFile("py-feat/pose_mlp_v2", "pose_mlp_v2.safetensors"),
        WeightsFile("py-feat/pose_mlp_v2", "pose_mlp_v2.json"),
    ),
    licence=_NC,
    licence_note="distilled from img2pose (CC BY-NC 4.0) on CelebV-HQ",
    inputs=(Tensor("landmarks_xy", ("faces", 68, 2), "landmarks in pixels"),),
    outputs=(Tensor("pose", ("faces", 6), "raw Pitch, Roll, Yaw in radians, then X, Y, Z"),),
    preprocessing=UNIT_PIXELS,
    tolerances=(Tolerance("pose", "degrees", 1e-2, columns=(0, 1, 2)), Tolerance("pose", "relative", 1e-4)),
)

ARCFACE = Network(
    name="arcface",
    title="identity embedding, ArcFace IResNet-50",
    files=(WeightsFile("py-feat/arcface_r50", "arcface_r50.safetensors", size_bytes=174_387_800),),
    licence=_NC,
    licence_note="InsightFace w600k_r50: non-commercial research only",
    inputs=_CHIPS,
    outputs=_EMBEDDING,
    preprocessing=Preprocessing((0.0, 1.0), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), in_graph=True, resize="to 112, bilinear"),
    tolerances=_EMBEDDING_TOLERANCES,
    optional_keys=("num_batches_tracked",),
)

FACENET = Network(
    name="facenet",
    title="identity embedding, FaceNet Inception-ResNet v1",
    files=(WeightsFile("py-feat/facenet", "facenet_20180402_114759_vggface2.pth"),),
    licence="MIT",
    licence_note="weights by facenet-pytorch; trained on VGGFace2, whose images are for research",
    inputs=_CHIPS,
    outputs=_EMBEDDING,
    preprocessing=Preprocessing((0.0, 1.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), in_graph=True, resize="to 112, bilinear"),
    tolerances=_EMBEDDING_TOLERANCES,
)

_MULTITASK_OUTPUTS = (
    Tensor("au", ("faces", len(AUS)), "probability of each action unit"),
    Tensor("emotion", ("faces", len(EMOTIONS_V2)), "probability of each emotion"),
    Tensor("valence_arousal", ("faces", 2), "valence and arousal in [-1,1]"),
    Tensor("gaze", ("faces", 2), "raw yaw and pitch in radians"),
    Tensor("pose", ("faces", 6), "raw pitch, yaw, roll in radians, then X, Y, Z"),
    Tensor("mesh", ("faces", MESH_POINTS, 3), "x and y as fractions of the chip, relative depth z"),
    Tensor("blendshapes", ("faces", len(BLENDSHAPES)), "MediaPipe's coefficients in [0,1]"),
)
_MULTITASK_TOLERANCES = (
    Tolerance("au", "probability", 1e-4),
    Tolerance("emotion", "probability", 1e-4),
    Tolerance("valence_arousal", "value", 1e-4),
    Tolerance("gaze", "degrees", 1e-2),
    Tolerance("pose", "degrees", 1e-2, columns=(0, 1, 2)),
    Tolerance("pose", "relative", 1e-4),
    Tolerance("mesh", "pixels", 1e-2, columns=(0, 1)),
    Tolerance("mesh", "relative", 1e-4),
    Tolerance("blendshapes", "probability", 1e-4),
)


_MULTITASK_SHARED = Network(
    name="multitask",
    title="",
    files=(),
    licence=_NC,
    licence_note="py-feat's face_multitask_v2: non-commercial (its training sets are)",
    inputs=(Tensor("chips", ("faces", 3, MULTITASK_CHIP.size, MULTITASK_CHIP.size), _CHIPS[0].meaning),),
    outputs=_MULTITASK_OUTPUTS,
    preprocessing=MULTITASK_PREPROCESSING,
    tolerances=_MULTITASK_TOLERANCES,
    optional_outputs=("blendshapes",),
)

MULTITASK_V2 = replace(
    _MULTITASK_SHARED,
    name="multitask-v2",
    title="AUs, emotion, gaze, pose, mesh, blendshapes (v2.4, v2.5)",
    files=(
        WeightsFile(
            "py-feat/face_multitask_v2", "face_multitask_v2.safetensors", older_filenames=("face_multitask_v2.pt",)
        ),
    ),
    refused_flags=("gaze_eye_roi", "gaze_pose_6d", "gaze_head_frame", "gaze_hidden", "gaze_bins"),
    default_flags=(("mesh_normalized", True),),
    # py-feat 2.0.3 divides the mesh by the image size before the emotion and gaze heads even where it is in [0,1]
    # already; 2.1 does not. Emotions, valence, arousal and gaze of the same weights differ between the two.
    forced_flags=(("unified_mesh_normalized", False),),
)
MULTITASK_V28 = replace(
    _MULTITASK_SHARED,
    name="multitask-v28",
    title="AUs, emotion, gaze with eye windows, pose, mesh, blendshapes (v2.8)",
    files=(
        WeightsFile(
            "py-feat/face_multitask_v2", "face_multitask_v28.safetensors", older_filenames=("face_multitask_v28.pt",)
        ),
    ),
)

NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        RETINAFACE_R34,
        RETINAFACE_MOBILENET025,
        MULTITASK_V2,
        MULTITASK_V28,
        MOBILEFACENET,
        POSE_MLP,
        ARCFACE,
        FACENET,
    )
}
