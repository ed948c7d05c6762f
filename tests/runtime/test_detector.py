from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import FACE

from fexruntime import Detector
from fexruntime.bundle import edge_bundle_path
from fexruntime.cuda import Cuda
from fexruntime.errors import (
    BundleError,
    ClosedError,
    EnvironmentMissingError,
    InferenceError,
    InputError,
    OutOfMemoryError,
    StandInWarning,
)
from fexruntime.files import file_sha256
from fexruntime.loading import failed


@pytest.fixture(scope="module")
def edge():
    return Detector()


def test_finds_the_face_of_the_photograph_where_a_person_would_draw_it(edge, photo):
    (result,) = edge.stream(photo)
    assert len(result) == 1
    assert result.scores[0] > 0.99
    # the face without hair, drawn by hand: forehead to chin, ear to ear
    drawn = np.array([176.0, 60.0, 274.0, 180.0])
    a, b = result.boxes_xyxy_px[0], drawn
    across = min(a[2], b[2]) - max(a[0], b[0])
    down = min(a[3], b[3]) - max(a[1], b[1])
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - across * down
    assert across * down / union > 0.8
    right_eye, left_eye, nose, mouth_right, mouth_left = result.points_xy_px[0]
    assert right_eye[0] < nose[0] < left_eye[0]
    assert max(right_eye[1], left_eye[1]) < nose[1] < min(mouth_right[1], mouth_left[1])


def test_faces_pipeline_gives_the_detectors_boxes(edge, photo):
    fex = edge.detect(photo)
    assert fex.columns[:5] == ("FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight", "FaceScore")
    assert len(fex) == 1
    assert fex["FrameHeight"].tolist() == [512.0]
    assert fex["input"].tolist() == [str(photo)]


def test_sizes_may_be_mixed_in_a_batch(edge, frame):
    other = np.ascontiguousarray(frame[:300, :420])
    alone = [edge.detect(image) for image in (frame, other, frame)]
    together = edge.detect([frame, other, frame], batch_size=3)
    assert together.frame.tolist() == [0, 1, 2]
    for i, single in enumerate(alone):
        assert np.allclose(together.values[i], single.values[0], atol=1e-3)


def test_a_frame_without_a_face_has_one_nan_row_with_score_0(v1_edge_bundle):
    fex = Detector(v1_edge_bundle).detect(np.zeros((120, 160, 3), np.uint8))
    assert len(fex) == 1
    assert fex["FaceScore"].tolist() == [0.0]
    rest = [c for c in fex.numeric_columns if c != "FaceScore"]
    assert np.isnan(fex.block(rest)).all()
    assert fex["FrameHeight"].tolist() == [120.0]
    assert fex.identities == [None]


def test_columns_of_models_that_are_off_are_there_and_nan(v1_edge_bundle, photo):
    fex = Detector(v1_edge_bundle).detect(photo)
    assert len(fex.columns) == 694
    assert np.isnan(fex.block(["AU01", "AU43", "anger", "gaze_yaw"])).all()
    assert np.isfinite(fex.block(["x_0", "y_67", "Pitch", "Z", "Identity_512"])).all()
    assert fex.identities == ["Person_0"]


def test_facenet_embeddings_are_unit_vectors(v1_edge_bundle, photo):
    (result,) = Detector(v1_edge_bundle).stream(photo)
    assert np.linalg.norm(result.embedding[0]) == pytest.approx(1.0, abs=1e-5)


def test_batches_of_frames_answer_what_single_frames_answer(v28_bundle, frame):
    detector = Detector(v28_bundle)
    frames = [frame, np.ascontiguousarray(frame[:, ::-1]), np.zeros_like(frame)]
    boxes = [FACE, np.concatenate([FACE, FACE + 30]), np.empty((0, 4))]
    together = detector.detect(frames, batch_size=3, boxes=boxes)
    alone = [detector.detect(f, boxes=[b]) for f, b in zip(frames, boxes, strict=True)]
    assert [len(a) for a in alone] == [1, 2, 0]
    assert len(together) == 3
    assert np.allclose(together.values, np.concatenate([a.values for a in alone]), rtol=1e-4, atol=1e-3)
    assert together["FaceScore"].tolist() == [1.0, 1.0, 1.0]


def test_more_faces_than_a_run_takes(v1_edge_bundle, frame):
    boxes = FACE + np.arange(11, dtype=np.float32)[:, None]
    detector = Detector(v1_edge_bundle)
    together = detector.detect(frame, boxes=boxes)
    last = detector.detect(frame, boxes=boxes[-1:])
    assert len(together) == 11
    assert np.allclose(together.values[-1], last.values[0], rtol=1e-4, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize(
    ("boxes", "says"),
    [
        (np.zeros((2, 3)), "must be .N,4."),
        ([FACE, FACE], "boxes were given for 2 frames .a list has one array .N,4. a frame; .*but there are 1"),
        ([[1, 2, 3, 4], [5, 6, 7, 8]], "give the boxes of a single frame as an array"),
        ([], "boxes were given for 0 frames"),
        (np.full((1, 4), np.nan), "finite"),
        ("all", "numbers"),
        (np.array([[178, 54, 93, 125]]), "corners x1, y1, x2, y2"),
        (7, "must be an array"),
    ],
)
def test_bad_boxes(edge, frame, boxes, says):
    with pytest.raises(InputError, match=says):
        edge.detect(frame, boxes=boxes)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"face_detection_threshold": 1.5},
        {"detector_size": 10},
        {"identity_method": "kmeans"},
        {"output_size": 3},
    ],
)
def test_bad_options(edge, frame, options):
    with pytest.raises(InputError):
        edge.detect(frame, **options)


def test_shrinking_for_the_detector_moves_boxes_by_less_than_a_tenth(edge, frame):
    exact, shrunk = (edge.detect(frame, detector_size=size) for size in (None, 320))
    assert len(shrunk) == len(exact) == 1
    assert np.abs(shrunk.values[0, :4] - exact.values[0, :4]).max() < 0.1 * exact["FaceRectHeight"][0]


def test_what_is_not_there_is_an_error_and_never_something_else():
    with pytest.raises(InputError, match="no backend 'tensorflow'"):
        Detector(backend="tensorflow")
    with pytest.raises(EnvironmentMissingError, match="faces cannot be run on 'cuda' by the backend 'onnxruntime'"):
        Detector(device="cuda")
    with pytest.raises(InputError, match="threads"):
        Detector(threads=0)
    with pytest.raises(InputError, match=r"threads=4096 cannot be meant: this process may use \d+ cores"):
        Detector(threads=4096)
    with pytest.raises(BundleError, match="has no fp32 artefact of kind arrays"):
        Detector(backend="arrays")
    with pytest.raises(BundleError, match="has no fp16 artefact of kind onnx in this bundle: it has fp32 onnx"):
        Detector(precision="fp16")
    with pytest.raises(InputError, match=r"no option 'treads' of Detector: .*max_pixels"):
        Detector(treads=2)
    with pytest.raises(InputError, match="no option 'batchsize'"):
        Detector().detect("x.jpg", batchsize=2)


def test_a_full_gpu_is_out_of_memory_too():
    with pytest.raises(OutOfMemoryError, match="the GPU's memory is full") as raised:
        Cuda._check(None, "cuMemAlloc_v2", 2)
    assert failed(raised.value) is OutOfMemoryError
    assert failed(InferenceError("the driver refused cuLaunchKernel")) is InferenceError


def test_describe_says_what_is_in_use():
    said = Detector(threads=1).describe()["faces"]
    assert said["provider"] == "CPUExecutionProvider"
    assert said["threads"] == 1
    assert said["precision"] == "fp32"


def test_other_models_of_the_process_still_load(edge):
    """A service has models of its own: loading a detector must not change how ONNX Runtime treats them."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    model = str(edge_bundle_path() / "faces.onnx")
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def test_the_optimised_graph_is_kept_checked_and_made_again(tmp_path, photo):
    first = Detector(cache=tmp_path).detect(photo)
    (kept,) = tmp_path.glob("*.bin")
    assert np.array_equal(Detector(cache=tmp_path).detect(photo).values, first.values)
    kept.write_bytes(kept.read_bytes()[:-100])
    assert np.array_equal(Detector(cache=tmp_path).detect(photo).values, first.values)
    assert len(list(tmp_path.iterdir())) == 2
    assert np.allclose(Detector(cache=False).detect(photo).values, first.values, atol=1e-3)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, photo):
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert len(Detector(cache=tmp_path / "file" / "cache").detect(photo)) == 1


def test_results_do_not_change_when_the_next_frame_is_read(v28_bundle, frame):
    detector = Detector(v28_bundle)
    stream = detector.stream([frame, np.zeros_like(frame)], boxes=[FACE, FACE])
    first = next(stream)
    kept = {n: getattr(first, n).copy() for n in ("mesh_xyz", "au", "embedding", "landmarks_xy_px", "scores")}
    next(stream)
    for name, value in kept.items():
        assert np.array_equal(getattr(first, name), value), name


def test_a_closed_detector_says_so(frame):
    with Detector() as detector:
        detector.warmup(64, 64)
    with pytest.raises(ClosedError, match="was closed"):
        detector.detect(frame)


def test_a_graph_in_the_cache_that_does_not_load_is_passed_over(tmp_path, photo):
    expected = Detector(cache=tmp_path).detect(photo).values
    (graph,) = tmp_path.glob("*.bin")
    graph.write_bytes(b"not a graph")
    note = graph.with_suffix(".json")
    note.write_text(
        json.dumps(json.loads(note.read_text(encoding="utf-8")) | {"sha256": file_sha256(graph)}), encoding="utf-8"
    )
    assert np.allclose(Detector(cache=tmp_path).detect(photo).values, expected, atol=1e-3)


def test_stand_ins_warn_and_are_described(v1_bundle):
    with pytest.warns(StandInWarning, match="retinaface-r34"):
        detector = Detector(v1_bundle)
    assert detector.describe()["landmarks"]["stand_in"] is True
    assert Detector().describe()["faces"]["stand_in"] is False


def test_boxes_stay_with_their_frame_when_an_input_is_bad(edge, frame):
    """They are found by the frame's running number; a bad input keeps its own."""
    boxes = [np.array([[k, k, k + 9, k + 9]], np.float32) for k in (0, 100, 200)]
    bad = []
    results = list(edge.stream([frame, "nope.jpg", frame], boxes=boxes, on_bad=bad.append))
    assert [r.index for r in results] == [0, 2]
    assert [r.boxes_xyxy_px.tolist() for r in results] == [boxes[0].tolist(), boxes[2].tolist()]
    assert len(bad) == 1
    with pytest.raises(InputError, match=r"for 3 frames .*but there are 2"):
        list(edge.stream([frame, "nope.jpg"], boxes=boxes, on_bad=bad.append))


def test_a_frame_without_a_face_has_every_value_with_no_face(v2_bundle, v1_edge_bundle):
    black = np.zeros((96, 128, 3), np.uint8)
    (result,) = Detector(v2_bundle).stream(black, boxes=[np.empty((0, 4))])
    shapes = {name: getattr(result, name).shape for name in ("pose", "mesh_xyz", "embedding", "au", "gaze_rad")}
    assert shapes == {
        "pose": (0, 6), "mesh_xyz": (0, 478, 3), "embedding": (0, 512), "au": (0, 20), "gaze_rad": (0, 3),
    }  # fmt: skip
    assert len(np.degrees(result.pose)) == 0
    (found,) = Detector(v1_edge_bundle).stream(black)
    assert found.landmarks_xy_px.shape == (0, 68, 2)
    assert found.points_xy_px.shape == (0, 5, 2)
    assert found.au is None  # no network of this bundle says anything of AUs
    (faces_only,) = Detector().stream(black)
    assert faces_only.pose is None


def test_a_producer_may_refill_its_buffer_while_a_batch_is_gathered(edge, frame):
    """A camera loop: one array, filled again and again."""

    def camera():
        buffer = np.empty_like(frame)
        for image in (frame, np.zeros_like(frame)):
            buffer[:] = image
            yield buffer

    for batch_size in (1, 2):
        assert [len(r) for r in edge.stream(camera(), batch_size=batch_size)] == [1, 0], batch_size


def test_what_nobody_asked_for_is_not_computed(v1_edge_bundle, photo):
    seen = []
    detector = Detector(v1_edge_bundle, observe=lambda stage, seconds, items: seen.append(stage))
    whole = detector.detect(photo)
    assert {"faces network", "landmarks network", "pose network", "identity network"} <= set(seen)
    for columns, networks in (
        (["facebox"], set()),
        (["x_0", "FaceRectX"], {"landmarks"}),
        (["pose"], {"landmarks", "pose"}),
        (["Identity"], {"identity"}),
    ):
        seen.clear()
        fex = detector.detect(photo, columns=columns)
        ran = {s.removesuffix(" network") for s in seen if s.endswith(" network")}
        assert ran == networks | {"faces"}, columns
        assert set(fex.columns) > {"input", "frame"}
        assert "Identity_512" not in fex
        for column in fex.columns:
            assert np.array_equal(fex[column], whole[column]), column
    assert detector.detect(photo, columns="Pitch").columns == ("Pitch", "input", "frame")
    with pytest.raises(InputError, match="no column or group 'AU99' in detectorv1: groups are facebox"):
        detector.detect(photo, columns=["AU99"])
    with pytest.raises(InputError, match="built without what gives au"):
        detector.stream(photo, columns=["au"])


def test_options_are_checked_when_stream_is_called_not_when_it_is_read(edge):
    with pytest.raises(InputError, match="batch_size"):
        edge.stream([], batch_size=0)


def test_results_compare_and_hash_by_what_they_are(edge, frame):
    first, second = edge.stream([frame, frame])
    assert first == first
    assert first != second
    assert len({first, second}) == 2


def test_a_network_that_cannot_be_loaded_closes_the_others(v1_edge_bundle, monkeypatch):
    from fexruntime import loading as module

    closed, real = [], module.open_backend

    def opened(network, place):
        if network.role == "pose":
            raise BundleError("pose cannot be loaded")
        backend = real(network, place)
        monkeypatch.setattr(backend, "close", lambda: closed.append(network.role))
        return backend

    monkeypatch.setattr(module, "open_backend", opened)
    with pytest.raises(BundleError, match="pose cannot be loaded"):
        Detector(v1_edge_bundle)
    assert sorted(closed) == ["faces", "identity", "landmarks"]


def test_columns_of_fex_that_are_not_there_are_input_errors(edge, photo):
    fex = edge.detect(photo)
    for ask in (lambda: fex["nope"], lambda: fex.block(["nope"])):
        with pytest.raises(InputError, match="nope"):
            ask()
