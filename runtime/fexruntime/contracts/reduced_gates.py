"""Budgets of the lower precisions, in each output's own unit.

float16 has eleven bits: what it costs is a fiftieth of what a face's own answers scatter by from frame to frame. int8 has
about four times that. bfloat16 has eight bits and lies between (see docs/precision.md for what was measured). A budget is on
the largest difference where each value is looked at for itself (an angle, a point, a box), and on all but the largest
hundredth for probabilities, of which a face has dozens.
"""

from __future__ import annotations

from fexruntime.contracts import detectorv1_networks as V1
from fexruntime.contracts import head_pose_networks as H
from fexruntime.contracts import networks as N
from fexruntime.contracts.schema import Gate

_FP16_DEGREES = 0.3
_FP16_PROBABILITY = 0.01
_FP16_SHARE = 0.3 / 112
"""Of a crop's side: 0.3 px of a crop of 112."""


def _budgets(times: float, cosine: float) -> dict[str, tuple[Gate, ...]]:
    degrees, probability, share = times * _FP16_DEGREES, times * _FP16_PROBABILITY, times * _FP16_SHARE
    # a face that appears or disappears is one, whatever the precision
    detections = (
        Gate("loc", "box", 0.05),
        Gate("conf", "score", 0.03),
        Gate("conf", "faces", 0.0),
        Gate("landmarks", "keypoints", 0.05),
    )
    multitask = (
        Gate("au", "probability", probability, by="p99"),
        Gate("emotion", "probability", probability, by="p99"),
        Gate("valence_arousal", "value", probability, by="p99"),
        Gate("gaze", "degrees", degrees),
        Gate("pose", "degrees", degrees, columns=(0, 1, 2)),
        Gate("pose", "scaled", times * 0.01, columns=(3, 4, 5)),
        Gate("mesh", "pixels", share * 256, columns=(0, 1)),
        Gate("mesh", "relative", times * 0.01, columns=(2,)),
        Gate("blendshapes", "probability", probability, by="p99"),
    )
    embedding = (Gate("embedding", "cosine", cosine),)

    def landmarks(side: int) -> tuple[Gate, ...]:
        return (Gate("landmarks", "pixels", share * side),)

    return {
        N.RETINAFACE_R34.name: detections,
        N.RETINAFACE_MOBILENET025.name: detections,
        N.MULTITASK_V2.name: multitask,
        N.MULTITASK_V28.name: multitask,
        N.MOBILEFACENET.name: landmarks(112),
        N.ARCFACE.name: embedding,
        N.FACENET.name: embedding,
        V1.L2CS.name: (Gate("gaze", "degrees", degrees),),
        V1.RESMASKNET.name: (Gate("emotion", "probability", probability, by="p99"),),
        V1.MOBILENET.name: landmarks(224),
        V1.PFLD.name: landmarks(112),
        # a matrix's entries: sines and cosines of the angles
        H.TOKENHPE.name: (Gate("rotation", "value", degrees / 57.3), Gate("tokens", "value", degrees / 57.3)),
        # in pixels of its crop of 192; presence as the probability that rows show and that 0.5 is asked of
        H.FACEMESH.name: (Gate("mesh", "value", 0.3 if times == 1 else 1.5), Gate("presence", "logit", probability)),
    }


GATES: dict[str, dict[str, tuple[Gate, ...]]] = {
    "fp16": _budgets(1.0, 1e-3),
    "bf16": _budgets(4.0, 4e-3),
    "int8": _budgets(4.0, 4e-3),
}
