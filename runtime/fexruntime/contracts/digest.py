"""The meaning of a bundle as a digest: of the rows that its numbers are read by.

A crop, a sign, a mean or a column that changes in the tables changes what an older bundle's numbers mean. So a bundle
records the digest of what it uses, and is refused where the running code's differs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from fexruntime.contracts import detection as C
from fexruntime.contracts import facemesh as M
from fexruntime.contracts import img2pose as P
from fexruntime.contracts import labels as L
from fexruntime.contracts.pipelines import network_row
from fexruntime.contracts.schema import Pipeline, without_defaults
from fexruntime.contracts.values import VALUES

_WORDS = frozenset({
    "title", "licence", "licence_note", "files", "meaning", "choices", "stages", "finder", "groups", "contracts", "fex_info",
    "fex_models", "called", "feat", "pose_order", "test_region", "optional", "follow_by",
})  # fmt: skip
"""Fields that say nothing about numbers, or of which a bundle uses a part."""

_CONSTANTS: dict[str, tuple[object, ...]] = {
    "retinaface": (C.MIN_SIZES, C.STEPS, C.VARIANCES, C.NMS_IOU, C.FINAL_SCORE, C.TOP_K, C.KEEP_TOP_K),
    "blazeface": (M.ANCHOR_GRIDS, M.DETECTOR_SIDE, M.SCORE_CLIP, M.NMS_IOU, M.REGION_SCALE, M.SAME_REGION_IOU),
    "facemesh": (M.MESH_SIDE, M.MESH_POINTS, L.DLIB68_FROM_MESH),
    "facemesh-refined": (M.MESH_SIDE, M.REFINED, M.IRIS_DEPTHS, L.DLIB68_FROM_MESH),
    "presence": (M.PRESENCE,),
    "mesh-features": (M.NOSE_TIP, M.EYE_LINE),
    "face-geometry": (M.VERTICAL_FOV_DEGREES,),
    "img2pose": (
        P.ANCHOR_SIDES,
        P.ASPECT_RATIOS,
        P.LARGEST_GROWTH,
        P.PROPOSAL_IOU,
        P.LEAST_SIDES,
        P.FEW_PROPOSALS,
        P.FRAME_MULTIPLE,
        P.ROI_LEVELS,
        P.ROI_SIDE,
        P.ROI_SAMPLES,
        P.ROI_REFERENCE,
        P.LEAST_SCORE,
        P.BOX_IOU,
        P.FACE_IOU,
        P.MOST_BOXES,
        P.ROLLS,
    ),
    "multitask": (L.MESH_POINTS, L.DLIB68_FROM_MESH),
    "landmarks-68": (L.LANDMARKS,),
}
"""By finder or decoder: what it reads raw outputs with, beside the rows."""


def contract_sha256(pipeline: Pipeline, contract: str, networks: Mapping[str, str | None]) -> str:
    """Hex digest of the rows behind a bundle with these networks by role (None: a stage without a graph).

    Titles, licences and weights files are left out, and so is everything of stages, choices and columns that the bundle
    does not have.
    """
    roles: list[object] = []
    given: set[str] = set()
    for stage in (pipeline.finder, *pipeline.stages):
        if stage.role in networks:
            name = networks[stage.role]
            for filled, network in ((stage.filled(name), name), *((s, s.networks[0]) for s in stage.helpers(name))):
                row = None if network is None else without_defaults(network_row(network), _WORDS)
                choice = without_defaults(filled.choice(network), _WORDS)
                roles.append([without_defaults(filled, _WORDS), choice, row, _CONSTANTS.get(filled.decode)])
                given.update(filled.gives)
    groups = [without_defaults(g, _WORDS) for g in pipeline.groups if g.value in given or g.value not in VALUES]
    meaning = [contract, without_defaults(pipeline, _WORDS), roles, groups]
    return hashlib.sha256(json.dumps(meaning, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
