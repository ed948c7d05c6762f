"""Precisions: what of each network stays in fp32 when the rest is lowered, and which of its operators int8 pays for.

The AU graph picks each AU's nearest neighbours: what changes a likeness by a rounding may change a pick, so the picks are made in
fp32. Sums of squares pass float16's largest number long before their roots do. A head's last layer costs nothing and has no
layer behind it that could average its rounding out.
"""

from __future__ import annotations

from dataclasses import dataclass

from fexruntime.contracts import detectorv1_networks as V1
from fexruntime.contracts import head_pose_networks as H
from fexruntime.contracts import networks as N

FULL = "fp32"
PRECISIONS = (FULL, "fp16", "bf16", "int8")
FP16_LARGEST = 65504.0
FP16_SAFE = 1e4
"""What calibration may reach in a float16 node: faces that were not calibrated on reach further."""


@dataclass(frozen=True, slots=True)
class Island:
    """Nodes that stay in fp32, by operator or by a pattern of their names in the exported graph, and why."""

    why: str
    operators: tuple[str, ...] = ()
    nodes: str = ""
    last_layers: bool = False
    """The weighted layer before each output, and everything after it."""
    precisions: tuple[str, ...] = PRECISIONS[1:]
    """Those that it is an island in."""


_NORMS = Island(
    "a sum over many values, whose squares pass float16's range",
    operators=("LayerNormalization", "InstanceNormalization", "ReduceL2", "ReduceSumSquare", "ReduceMean", "ReduceSum"),
    nodes=r"/LayerNormalization(_\d+)?/",  # its steps, where a graph has them one by one
)
_SOFTMAX = Island("exponentials, and expectations over them", operators=("Softmax", "LogSoftmax", "Exp"))
_PREPROCESSING = Island("pixels to the network's scale: exact, and cheap", nodes=r"^/preprocess/")
_LAST = Island("the last layer of a head: nothing after it averages its rounding out", last_layers=True)
_GRN = Island("global response normalisation: the root of a sum of squares over the map", nodes=r"/grn/")
_AU_GRAPH = Island("the AU graph: near-equal likenesses decide who is whose neighbour", nodes=r"^/(afg|fgg|sc)/")
_EYE_NORMS = Island(
    "group normalisation of the eye features: a variance over the map", nodes=r"^/gaze_eye_enc/.*(norm|gn)"
)
_GEOMETRY = Island("the head's rotation, from angles", operators=("Sin", "Cos", "Sqrt", "Reciprocal"))

_STEM = Island(
    "the first layers: few channels, which int8 does no faster, and every later layer has their rounding in it",
    nodes=r"^/conv1/|^/conv2_dw/",
    precisions=("int8",),
)
_DEPTHWISE_AND_END = Island(
    "depthwise layers, which int8 does no faster, and the last ones: what a face reaches there beyond the calibration's moves its points",
    nodes=r"/conv_dw/|^/conv_6_sep/|/conv_6_dw/",
    precisions=("int8",),
)
_NARROW_BODY = Island(
    "depthwise layers of a narrow trunk: a third of the work, and nine tenths of what int8 costs boxes",
    nodes=r"^/body/stage[12]/",
    precisions=("int8",),
)

_MESH_DEPTHWISE = Island(
    "depthwise layers, the stem and the first layers of sixteen channels: int8 does them no faster, and they are half of what it costs points",
    nodes=r"^/network/Conv(_([1-4]|5|7|9|11|13|15|17|19|21|23|25|27))?$",
    precisions=("int8",),
)
_MESH_HEADS = Island(
    "the two heads behind the trunk, maps of 6 x 6 and less: points and presence depend on them directly",
    nodes=r"^/network/Conv_(29|3\d|4\d)$",
    precisions=("int8",),
)

_SMALL_HEADS = Island(
    "layers of a hundredth of the work, on which angles and points depend directly",
    nodes=r"^/(pose|lmk|blendshape|unified)/|^/proj/|/stem_0/",
    precisions=("int8",),
)

_TRUNK_DEPTHWISE = Island(
    "depthwise layers: a fiftieth of the work, which int8 does no faster than fp32 does",
    nodes=r"/conv_dw/Conv$",
    precisions=("int8",),
)

_COMMON = (_NORMS, _SOFTMAX, _PREPROCESSING, _GEOMETRY)
_MULTITASK = (*_COMMON, _GRN, _AU_GRAPH, _EYE_NORMS, _LAST, _SMALL_HEADS, _TRUNK_DEPTHWISE)

ISLANDS: dict[str, tuple[Island, ...]] = {
    N.RETINAFACE_R34.name: (*_COMMON, _LAST),
    N.RETINAFACE_MOBILENET025.name: (*_COMMON, _LAST, _NARROW_BODY),
    N.MULTITASK_V2.name: _MULTITASK,
    N.MULTITASK_V28.name: _MULTITASK,
    N.MOBILEFACENET.name: (*_COMMON, _LAST, _STEM, _DEPTHWISE_AND_END),
    # their last layers are a third of their weights, and an embedding is compared by its direction
    N.ARCFACE.name: _COMMON,
    N.FACENET.name: _COMMON,
    V1.L2CS.name: (*_COMMON, _LAST),
    V1.RESMASKNET.name: (*_COMMON, _LAST),
    V1.MOBILENET.name: (*_COMMON, _LAST),
    V1.PFLD.name: (*_COMMON, _LAST),
    H.TOKENHPE.name: (*_COMMON, _LAST),
    H.FACEMESH.name: (*_COMMON, _LAST, _MESH_DEPTHWISE, _MESH_HEADS),
}
"""By network. One that is not here is run in fp32 alone."""

_EVERYTHING = ("Conv", "Relu", "Add", "MaxPool", "Resize")
_WEIGHTED = ("Conv", "MatMul", "Gemm")

QUANTISED: dict[str, tuple[str, ...]] = {
    # the sums of its residuals and of its pyramid in int8 too, so that whole chains stay in it: 1.2 times as fast, no worse
    N.RETINAFACE_R34.name: _EVERYTHING,
    N.RETINAFACE_MOBILENET025.name: _EVERYTHING,
    N.MULTITASK_V2.name: _WEIGHTED,
    N.MULTITASK_V28.name: _WEIGHTED,
    # with their sums in int8 ArcFace is no faster and errs twice as much
    N.MOBILEFACENET.name: _WEIGHTED,
    N.ARCFACE.name: _WEIGHTED,
    N.FACENET.name: _WEIGHTED,
    V1.L2CS.name: _WEIGHTED,
    V1.RESMASKNET.name: _WEIGHTED,
    V1.MOBILENET.name: _WEIGHTED,
    V1.PFLD.name: _WEIGHTED,
    H.TOKENHPE.name: _WEIGHTED,
    H.FACEMESH.name: _WEIGHTED,
}
"""Operators that are done in int8, by network."""

INT8_WEIGHTS_ALONE: dict[str, tuple[str, ...]] = {
    # small layers about PReLU: what it costs to round between them is more than int8's products save
    N.MOBILEFACENET.name: ("any",),
    H.FACEMESH.name: ("any", "openvino"),
}
"""By network, targets of a manifest for which int8 is no faster than fp32 on a CPU: their weights are int8, and computed with in fp32. With
"openvino" OpenVINO has no int8 graph of its own, and reads the one for any; TensorRT's are always computed in int8.
"""
