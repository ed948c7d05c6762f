"""Gates: how far an artefact may be from torch, by precision and network, in each output's own unit."""

from __future__ import annotations

from fexruntime.contracts import detectorv1_networks as V1
from fexruntime.contracts import head_pose_networks as H
from fexruntime.contracts import networks as N
from fexruntime.contracts import reduced_gates
from fexruntime.contracts.schema import Gate
from fexruntime.errors import InputError

_DETECTIONS = (
    Gate("conf", "probability", 1e-4),
    Gate("loc", "relative", 1e-4),
    Gate("landmarks", "relative", 1e-4),
)
_PROPOSALS = tuple(Gate(t.name, "relative", 1e-4) for t in N.IMG2POSE.outputs)
_EMBEDDING = (Gate("embedding", "cosine", 1e-6), Gate("embedding", "relative", 1e-4))
# X, Y and Z differ tenfold in range: each is judged by its own size
_POSE = (Gate("pose", "degrees", 1e-2, columns=(0, 1, 2)), Gate("pose", "scaled", 1e-4, columns=(3, 4, 5)))
_MULTITASK = (
    Gate("au", "probability", 1e-4),
    Gate("emotion", "probability", 1e-4),
    Gate("valence_arousal", "value", 1e-4),
    Gate("gaze", "degrees", 1e-2),
    *_POSE,
    Gate("mesh", "pixels", 1e-2, columns=(0, 1)),
    Gate("mesh", "relative", 1e-4, columns=(2,)),
    Gate("blendshapes", "probability", 1e-4),
)

# in pixels of the crop, and logits
_FACEMESH = (Gate("mesh", "value", 2e-3), Gate("presence", "value", 1e-3))

GATES: dict[str, dict[str, tuple[Gate, ...]]] = {
    "fp32": {
        N.RETINAFACE_R34.name: _DETECTIONS,
        N.RETINAFACE_MOBILENET025.name: _DETECTIONS,
        N.IMG2POSE.name: _PROPOSALS,
        N.IMG2POSE_SCORES.name: (Gate("conf", "probability", 1e-4),),
        N.IMG2POSE_POSE.name: _POSE,
        N.MULTITASK_V2.name: _MULTITASK,
        N.MULTITASK_V28.name: _MULTITASK,
        N.MOBILEFACENET.name: (Gate("landmarks", "pixels", 1e-2),),
        N.POSE_MLP.name: _POSE,
        N.ARCFACE.name: _EMBEDDING,
        N.FACENET.name: _EMBEDDING,
        V1.L2CS.name: (Gate("gaze", "degrees", 1e-2),),
        V1.RESMASKNET.name: (Gate("emotion", "probability", 1e-4),),
        V1.MOBILENET.name: (Gate("landmarks", "pixels", 1e-2),),
        V1.PFLD.name: (Gate("landmarks", "pixels", 1e-2),),
        V1.XGB_AU.name: (Gate("au", "probability", 1e-5),),
        V1.SVM_AU.name: (Gate("au", "value", 0.0),),
        V1.SVM_EMOTION.name: (Gate("emotion", "value", 0.0),),
        H.TOKENHPE.name: (Gate("rotation", "value", 2e-5), Gate("tokens", "value", 2e-5)),
        H.BLAZEFACE.name: (Gate("regressors", "value", 2e-3), Gate("classificators", "value", 2e-3)),
        H.FACEMESH.name: _FACEMESH,
        H.NLML_ENCODER.name: (Gate("latent", "scaled", 5e-6),),
        **{n.name: (Gate("angle", "scaled", 5e-6),) for n in (H.NLML_YAW, H.NLML_PITCH, H.NLML_ROLL)},
        H.FACEMESH_ATTENTION.name: (
            *_FACEMESH,
            *(Gate(n, "value", 2e-3) for n in ("lips", "left_eye", "right_eye", "left_iris", "right_iris")),
        ),
    },
    **reduced_gates.GATES,
}


def gates_of(network: str, precision: str) -> tuple[Gate, ...]:
    """The gates of a network in a precision; InputError if there are none, since then nothing can be verified."""
    try:
        return GATES[precision][network]
    except KeyError:
        raise InputError(f"no gates for {network} in {precision}: add them to contracts/gates.py") from None
