"""One torch module a network, written for export, with its recipe.

Module and parameter names are those of the published checkpoints, so that `load_state_dict(strict=True)` is the
test that a file is what the contract says. The arithmetic is that of py-feat's modules; nothing is folded or fused
here (that is `fexport.onnx_passes`' work), so these modules are also the reference that `fexport.verify` compares
the exported graphs with.
"""

from __future__ import annotations

from fexport.networks import (
    arcface,
    facemesh,
    facenet,
    img2pose,
    l2cs,
    mobilefacenet,
    mobilenet,
    multitask_recipes,
    nlml,
    pfld,
    pose_mlp,
    resmasknet,
    retinaface,
    svm,
    tokenhpe,
    xgb_au,
)
from fexport.recipe import Recipe

RECIPES: dict[str, Recipe] = {
    "retinaface-r34": retinaface.RECIPE_R34,
    "retinaface-mobilenet025": retinaface.RECIPE_MOBILENET025,
    "img2pose": img2pose.RECIPE,
    "img2pose-scores": img2pose.RECIPE_SCORES,
    "img2pose-pose": img2pose.RECIPE_POSE,
    "multitask-v2": multitask_recipes.RECIPE_V2,
    "multitask-v28": multitask_recipes.RECIPE_V28,
    "mobilefacenet": mobilefacenet.RECIPE,
    "pose-mlp": pose_mlp.RECIPE,
    "arcface": arcface.RECIPE,
    "facenet": facenet.RECIPE,
    "l2cs": l2cs.RECIPE,
    "resmasknet": resmasknet.RECIPE,
    "mobilenet": mobilenet.RECIPE,
    "pfld": pfld.RECIPE,
    "xgb-au": xgb_au.RECIPE,
    "svm-au": svm.RECIPE_AU,
    "svm-emotion": svm.RECIPE_EMOTION,
    "tokenhpe": tokenhpe.RECIPE,
    "blazeface": facemesh.BLAZEFACE,
    "facemesh": facemesh.FACEMESH,
    "facemesh-attention": facemesh.FACEMESH_ATTENTION,
    "nlml-encoder": nlml.ENCODER,
    "nlml-yaw": nlml.HEAD,
    "nlml-pitch": nlml.HEAD,
    "nlml-roll": nlml.HEAD,
}
"""By the name of the network's contract row."""
