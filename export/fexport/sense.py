"""Does a bundle of published weights see what is plainly there? The photograph's face, and landmarks on it.

Verification says that an artefact answers what our torch module answers. If both read colours the wrong way round or
the wrong box, they agree. So where the weights are the published ones, the finder must find the face of the packaged
photograph, and landmarks must lie on it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from fexport.samples import FACE_XYXY_PX, photograph
from fexruntime import Detector
from fexruntime.boxes import iou
from fexruntime.bundle import Bundle
from fexruntime.errors import VerificationError

LEAST_IOU = 0.6
LEAST_SCORE = 0.9
LEAST_INSIDE = 0.9
"""Share of the landmarks that have to lie in the face's box, half as large again."""


def check(bundle: Bundle) -> dict[str, Any]:
    """What was seen, for the report. Raises VerificationError if it is nonsense; says so if it could not be checked."""
    published = {role: n for role, n in bundle.networks.items() if all(w.published for w in n.record.weights)}
    finder = bundle.pipeline.finder.role
    if finder not in published:
        return {"checked": False, "why": "the finder's weights are not the published ones"}
    parts = {finder, *(s.role for s in bundle.networks[finder].stage.helpers(bundle.networks[finder].row.name))}
    kept = {r: n for r, n in published.items() if r in parts or "landmarks_xy_px" in n.stage.gives}
    with Detector(dataclasses.replace(bundle, networks=kept, host_roles=frozenset()), cache=False) as detector:
        (result,) = detector.stream(photograph())
    if not len(result):
        raise VerificationError(f"{published[finder].row.name} finds no face in a photograph that has one")
    box, face = result.boxes_xyxy_px[0], np.array(FACE_XYXY_PX)
    overlap, score = float(iou(box[None].astype(np.float64), face[None])[0, 0]), float(result.scores[0])
    if overlap < LEAST_IOU or score < LEAST_SCORE:
        raise VerificationError(
            f"{published[finder].row.name} finds a face of score {score:.2f} at {box.round().tolist()}, where there is one at "
            f"{list(FACE_XYXY_PX)}: what it reads is not what it was trained on"
        )
    seen: dict[str, Any] = {"checked": True, "score": round(score, 4), "iou": round(overlap, 3)}
    if result.landmarks_xy_px is not None:
        centre, half = (face[:2] + face[2:]) / 2, 0.75 * (face[2:] - face[:2])
        inside = float((np.abs(result.landmarks_xy_px[0] - centre) <= half).all(axis=1).mean())
        if inside < LEAST_INSIDE:
            raise VerificationError(f"only {inside:.0%} of the landmarks lie on the photograph's face")
        seen["landmarks_on_face"] = round(inside, 3)
    return seen
