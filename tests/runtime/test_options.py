from __future__ import annotations

import numpy as np
import pytest

from fexruntime import Options, Place
from fexruntime.errors import InputError


def test_numpys_numbers_serve_as_pythons():
    options = Options(
        batch_size=np.int64(2),
        output_size=np.int32(256),
        detector_size=np.int16(640),
        face_detection_threshold=np.float32(0.75),
    )
    assert options == Options(batch_size=2, output_size=256, detector_size=640, face_detection_threshold=0.75)
    assert Options(output_size=[np.int64(64), 96]).output_size == (64, 96)
    assert Place(threads=np.int64(2)).cores == 2


def test_threads_may_be_given_by_role():
    place = Place(threads={"pose": 1})
    assert (place.threads_of("pose"), place.threads_of("faces")) == (1, Place().cores)
    assert Place(threads=2).threads_of("faces") == 2
    for wrong in ({"pose": 0}, {"pose": True}, {"pose": 10**6}):
        with pytest.raises(InputError, match="threads"):
            Place(threads=wrong)
    with pytest.raises(InputError, match="threads names chin: this bundle has faces"):
        Place(threads={"chin": 1}).check_roles(["faces"])


def test_columns_may_be_one_text_or_any_iterable(v1_edge_bundle, photo):
    from fexruntime import Detector

    assert Options(columns="au, pose").columns == ("au", "pose")
    fex = Detector(v1_edge_bundle).detect(photo, columns=(c for c in ["Pitch", "Yaw"]))
    assert fex.columns == ("Pitch", "Yaw", "input", "frame")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("batch_size", 1.5),
        ("batch_size", True),
        ("batch_size", None),
        ("output_size", "640"),
        ("output_size", (64, 64, 64)),
        ("detector_size", 63),
        ("face_detection_threshold", None),
        ("face_detection_threshold", "0.5"),
        ("face_detection_threshold", float("nan")),
        ("face_identity_threshold", float("nan")),
        ("face_identity_threshold", 1.01),
        ("identity_method", "kmeans"),
        ("columns", []),
        ("columns", [3]),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_option(option, value):
    with pytest.raises(InputError) as error:
        Options(**{option: value})
    assert option.replace("_", " ") in str(error.value).replace("_", " ")
    assert repr(value) in str(error.value)
