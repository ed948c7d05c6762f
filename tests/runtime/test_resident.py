"""A frame's whole way on a GPU, on the CPU: the driver's stand-in, g++'s kernels, engines with ONNX Runtime's numbers.

Everything is put into a stream and done when somebody waits, as on a device: what is read too early is not there.
"""

from __future__ import annotations

import ctypes
import shutil

import numpy as np
import pytest
from conftest import GOLDENS
from cuda_standin import COPIES, GPU, same
from fex_compare import assert_same_fex
from tensorrt_standin import VERSIONS
from test_goldens import BOXES

from fexruntime import Detector
from fexruntime.cuda import Cuda
from fexruntime.errors import EnvironmentMissingError, InferenceError, InputError
from fexruntime.sources.frame import Frame

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="the stand-in needs g++"),
    pytest.mark.filterwarnings("ignore::fexruntime.errors.StandInWarning"),
]


@pytest.mark.parametrize("version", VERSIONS)
def test_one_copy_back_a_frame(driver, tensorrt, frame, version):
    calls = tensorrt("edge", version)
    with Detector("edge", **GPU) as detector, Detector("edge") as plain:
        loaded = len(calls)
        for picture in (frame, np.ascontiguousarray(frame[:96, :128]), frame):
            before, bytes_before = driver.standin_count(COPIES), driver.standin_count(b"bytes back")
            found = detector.detect(picture)
            assert driver.standin_count(COPIES) - before == 1
            assert driver.standin_count(b"bytes back") - bytes_before < 50_000
            same(found, plain.detect(picture))
        assert [c for c in calls[loaded:] if c[0] in ("create_execution_context", "set_input_shape")] == []
        addresses = [c for c in calls if c[0] == "set_tensor_address"]
        detector.detect(frame)
        assert [c for c in calls if c[0] == "set_tensor_address"] == addresses  # nothing moved
    assert driver.standin_open() == 0


@pytest.mark.parametrize(
    ("made", "golden"), [("v1_bundle", "detectorv1_pyfeat215.csv"), ("v2_bundle", "detectorv2_pyfeat203.csv")]
)
def test_a_whole_detector_gives_pyfeats_golden(driver, tensorrt, photo, request, made, golden):
    bundle = request.getfixturevalue(made)
    tensorrt(bundle)
    with Detector(bundle, **GPU) as detector:
        for most in (2, 1):  # the first frame had more faces than there were slots
            before = driver.standin_count(COPIES)
            assert_same_fex(detector.detect(photo), GOLDENS / golden)
            assert driver.standin_count(COPIES) - before <= most
    assert driver.standin_open() == 0


def test_a_frame_of_other_strides_is_read_as_what_it_shows(driver, tensorrt, frame):
    tensorrt("edge")
    turned = Frame(np.ascontiguousarray(frame[:, :, ::-1])[:, :, ::-1], 0, "")
    assert not turned.rgb_u8.flags.c_contiguous
    with Detector("edge", **GPU) as detector:
        (found,), (expected,) = detector.run([turned]), detector.run([Frame(frame, 0, "")])
    assert len(found) == 1
    for name, values in expected.values.items():
        assert np.array_equal(found.values[name], values), name


def test_the_callers_boxes_batches_and_sizes(driver, tensorrt, frame, v1_edge_bundle):
    tensorrt(v1_edge_bundle)
    two = np.ascontiguousarray(np.concatenate([frame[:256], frame[:256, ::-1]]))
    pictures, boxes = (
        [frame, two, frame[:96, :128]],
        np.array([[177.7, 53.75, 271.0, 178.75], [-30, -20, 90, 80]], np.float32),
    )
    with Detector(v1_edge_bundle, **GPU) as detector, Detector(v1_edge_bundle) as plain:
        for _ in range(2):  # the second time there is a slot for every face
            before = driver.standin_count(COPIES)
            found = detector.detect(pictures, batch_size=3)
            copies = driver.standin_count(COPIES) - before
            same(found, plain.detect(pictures, batch_size=3))
        assert copies == 1
        same(detector.detect(frame, boxes=boxes), plain.detect(frame, boxes=boxes))
        same(detector.detect(two, max_faces=1), plain.detect(two, max_faces=1))
        same(detector.detect(frame, columns=["pose"]), plain.detect(frame, columns=["pose"]))
        same(detector.detect([frame, frame], track=True), plain.detect([frame, frame], track=True))
        smooth = {"bbox_smoothing_alpha": 0.4}
        same(detector.detect([frame, frame], **smooth), plain.detect([frame, frame], **smooth))
        wide = np.ascontiguousarray(np.tile(frame, (2, 2, 1)))
        same(detector.detect(wide, detector_size=512), plain.detect(wide, detector_size=512))
    assert driver.standin_open() == 0


def test_networks_without_an_engine_are_the_cpus(driver, tensorrt, photo, frame, v1_whole_bundle):
    tensorrt(v1_whole_bundle)
    with Detector(v1_whole_bundle, **GPU) as detector, Detector(v1_whole_bundle) as plain:
        same(detector.detect(photo), plain.detect(photo))
        with detector._workspaces.lent() as workspace:
            assert {"faces", "landmarks", "emotion", "identity"} <= set(workspace.ops._runners)
            assert "au" in workspace.runners


def test_what_cannot_be(driver, tensorrt):
    tensorrt("edge")
    with pytest.raises(InputError, match=r"pixels must be cpu or cuda, not 'gpu'"):
        Detector("edge", pixels="gpu")
    with pytest.raises(InputError, match=r"pixels='cuda' needs faces on a GPU: give device='cuda'"):
        Detector("edge", pixels="cuda")
    with pytest.raises(EnvironmentMissingError, match=r"no device 'cuda:2' here: the driver finds 2"):
        Detector("edge", backend="tensorrt", device="cuda:2", pixels="cuda")
    with Detector("edge", **GPU) as detector, pytest.raises(InputError, match="--profile 100x200"):
        detector.detect(np.zeros((100, 200, 3), np.uint8))
    driver.standin_memory(ctypes.c_size_t(1 << 20))
    with pytest.raises(InferenceError, match="the GPU's memory is full"):
        Detector("edge", **GPU)
    driver.standin_memory(ctypes.c_size_t(1 << 40))
    assert driver.standin_open() == 0


def test_streams_events_and_graphs(driver):
    cuda = Cuda(1)
    at, host = cuda.empty(16), cuda.pinned(16)
    first, last = cuda.event(), cuda.event()
    host[:] = 1
    cuda.record(first)
    graph = cuda.captured(lambda: cuda.fetch(at, host))
    cuda.write(at, np.arange(16, dtype=np.uint8))
    cuda.replay(graph)
    cuda.record(last)
    assert host.tolist() == [1] * 16  # nothing is there before it is waited for
    cuda.synchronise()
    assert host.tolist() == list(range(16))
    assert cuda.elapsed_ms(first, last) > 0
    free, total = cuda.memory()
    assert (total, 16 <= total - free < 4096) == (4 << 30, True)
    other = Cuda(1)
    cuda.follow(other.stream)
    with pytest.raises(InferenceError, match="refused cuMemcpyHtoDAsync_v2 with error 1"):
        cuda.write(at, np.zeros(17, np.uint8))
    for each in (other, cuda):
        each.close()
    assert driver.standin_open() == 0
    assert cuda.gpu.architecture == "sm_90"


def captures(driver):
    return driver.standin_count(b"cuStreamBeginCapture_v2"), driver.standin_count(b"cuGraphLaunch")


@pytest.mark.parametrize("version", VERSIONS)
def test_what_comes_again_is_a_graph_and_what_changed_is_not(driver, tensorrt, frame, version):
    tensorrt("edge", version)
    small = np.ascontiguousarray(frame[:96, :128])
    with Detector("edge", **GPU) as detector, Detector("edge") as plain:
        allocated = driver.standin_count(b"cuMemAlloc_v2")

        def seen(picture, **options):
            """(captures, launches of graphs) of one call more."""
            before = captures(driver)
            same(detector.detect(picture, **options), plain.detect(picture, **options))
            return tuple(np.subtract(captures(driver), before))

        for picture in (frame, small):  # another size is another profile, with a graph of its own
            first = [seen(picture) for _ in range(4)]
            # set up, seen to be steady, captured, run again (or steady at once, where memory happens to lie as it lay)
            assert first[0] == (0, 0)
            assert [c for c in first[1:] if c != (0, 0)] in ([(1, 1), (0, 1)], [(1, 1), (0, 1), (0, 1)])
        assert seen(frame) == (0, 1)  # whose graph is still good
        assert seen(frame, face_detection_threshold=0.9) == (0, 0)  # other work
        assert seen((frame // 2).astype(np.uint8)) == (0, 1)  # what is uploaded is not in the graph
        tables = driver.standin_count(b"cuMemAlloc_v2") - allocated
        assert tables <= 6  # constants of the kernels; every buffer was there
        same(detector.detect([frame, frame], batch_size=2), plain.detect([frame, frame], batch_size=2))
        assert seen(frame) == (0, 0)  # larger buffers: the old graph has addresses that are none
    assert driver.standin_open() == 0


def test_graphs_of_a_whole_detector(driver, tensorrt, photo, v1_bundle):
    tensorrt(v1_bundle)
    with Detector(v1_bundle, **GPU) as detector:
        for _ in range(5):
            assert_same_fex(detector.detect(photo), GOLDENS / "detectorv1_pyfeat215.csv")
        begun, launched = captures(driver)
        assert begun >= 1
        assert launched >= 2
        kernels = driver.standin_count(b"cuLaunchKernel")
        assert_same_fex(detector.detect(photo), GOLDENS / "detectorv1_pyfeat215.csv")
        assert driver.standin_count(b"cuLaunchKernel") == kernels  # all of it was the graph's
        for _ in range(4):  # and the second pass, of boxes that are known
            assert len(detector.detect(photo, boxes=BOXES)) == len(BOXES)
        assert captures(driver)[0] > begun
    assert driver.standin_open() == 0


def test_a_driver_that_captures_nothing_is_said_once_and_runs_all_the_same(driver, tensorrt, frame, caplog):
    tensorrt("edge")
    driver.standin_refuse_captures(1)
    try:
        with Detector("edge", **GPU) as detector, Detector("edge") as plain:
            for _ in range(5):
                same(detector.detect(frame), plain.detect(frame))
    finally:
        driver.standin_refuse_captures(0)
    assert [r.message for r in caplog.records if "no CUDA graphs" in r.message] == [
        "no CUDA graphs: the CUDA driver refused cuStreamBeginCapture_v2 with error 900"
    ]


def test_what_a_capture_forbids_is_an_error_and_nothing_stays(driver):
    cuda = Cuda()
    at = cuda.empty(16)
    with pytest.raises(InferenceError, match="refused cuMemcpyHtoDAsync_v2 with error 900"):
        cuda.captured(lambda: cuda.write(at, np.zeros(16, np.uint8)))
    with pytest.raises(InferenceError, match="refused cuMemAlloc_v2 with error 900"):
        cuda.captured(lambda: cuda.empty(16))
    cuda.write(at, np.zeros(16, np.uint8))
    cuda.close()
    assert driver.standin_open() == 0


def test_stages_are_told_by_the_gpus_clock(driver, tensorrt, frame, v1_edge_bundle):
    tensorrt(v1_edge_bundle)
    notes = []
    with Detector(v1_edge_bundle, observe=lambda *note: notes.append(note), **GPU) as detector:
        told = []
        for _ in range(5):
            notes.clear()
            detector.detect(frame)
            told.append(dict.fromkeys(name for name, _, _ in notes))
    assert captures(driver)[0] >= 1
    assert list(told[-1]) == list(told[-2])  # of a graph as of what it was made of
    assert {"upload", "finding", "faces network", "crops", "landmarks network", "identity network", "copy back"} <= set(
        told[-1]
    )
    taken = {name: seconds for name, seconds, _ in notes}
    assert all(seconds >= 0 for seconds in taken.values())
    assert taken["faces network"] > 0
