"""What a service does with a detector: many threads, forks, worker processes, frames that are too large."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import FACE

from fexruntime import Detector, Frame, Options
from fexruntime.errors import ClosedError, InferenceError, InputError
from fexruntime.sources.frame import frame_of
from fexruntime.workspace import Workspace


@pytest.mark.parametrize("workspaces", [1, 2])
def test_eight_threads_on_one_detector_answer_what_one_does(v1_edge_bundle, frame, workspaces):
    frames = [np.ascontiguousarray(image) for image in (frame, frame[:400, 100:500], frame[:, ::-1])]
    with Detector(v1_edge_bundle, threads=1) as alone:
        expected = [alone.detect(f).values for f in frames]
    with Detector(v1_edge_bundle, threads=1, workspaces=workspaces) as detector, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda k: detector.detect(frames[k % 3]).values, range(24)))
    for k, answer in enumerate(answers):
        assert np.array_equal(answer, expected[k % 3], equal_nan=True), k


def test_a_small_frame_is_answered_while_a_large_one_is_in_work(frame):
    """With two workspaces nobody waits: the order of the answers says so, no clock does."""
    large = np.ascontiguousarray(np.tile(frame, (5, 8, 1))[:2160, :3840])
    small = np.ascontiguousarray(np.tile(frame, (1, 2, 1))[:480, :640])
    started, answers = threading.Event(), []
    with Detector(threads=1, workspaces=2) as detector:
        detector.detect(small)
        network = detector._networks["faces"]
        infer = type(network).infer

        def watched(self, inputs, out=None):
            if next(iter(inputs.values())).shape[3] == 3840:
                started.set()
            return infer(self, inputs, out)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(network), "infer", watched)
            thread = threading.Thread(target=lambda: answers.append(("large", len(detector.detect(large)))))
            thread.start()
            assert started.wait(60)
            answers.append(("small", len(detector.detect(small))))
            thread.join()
    assert [name for name, _ in answers] == ["small", "large"]


def test_closing_waits_for_the_calls_under_way_and_lets_nobody_else_in(frame, monkeypatch):
    detector = Detector(workspaces=2)
    network = type(detector._networks["faces"])
    infer, entered, leave = network.infer, threading.Event(), threading.Event()

    def slow(self, inputs, out=None):
        entered.set()
        assert leave.wait(60)
        assert self._session is not None, "closed while it ran"
        return infer(self, inputs, out)

    monkeypatch.setattr(network, "infer", slow)
    results = []
    caller = threading.Thread(target=lambda: results.append(len(detector.detect(frame))))
    caller.start()
    assert entered.wait(60)
    closers = [threading.Thread(target=detector.close) for _ in range(2)]
    for closer in closers:
        closer.start()
    closers[0].join(0.3)
    assert closers[0].is_alive()  # it waits for the call
    leave.set()
    for thread in (caller, *closers):
        thread.join(60)
        assert not thread.is_alive()
    assert results == [1]
    with pytest.raises(ClosedError, match="was closed"):
        pickle.dumps(detector)
    with pytest.raises(ClosedError, match="was closed"):
        detector.detect(frame)
    with pytest.raises(ClosedError, match="was closed"):
        detector.stream(frame)


@pytest.mark.parametrize("workspaces", [0, -1, True, 1.5, None])
def test_workspaces_that_cannot_be(workspaces):
    with pytest.raises(InputError, match="workspaces must be a whole number"):
        Detector(workspaces=workspaces)


def test_run_is_stateless_and_takes_frames_as_they_are(v1_edge_bundle, frame):
    detector = Detector(v1_edge_bundle)
    frames = [frame_of(frame, 7, "a"), frame_of(frame[:300], 9, "b")]
    results = detector.run(frames, Options(columns=("pose",)))
    assert [(r.index, r.name) for r in results] == [(7, "a"), (9, "b")]
    assert detector.run([]) == []
    assert detector.run([Frame(frame, 3, "c")])[0].size_hw == (512.0, 512.0)
    for wrong, says in (([frame], "takes Frame objects"), (["a.jpg"], "takes Frame objects")):
        with pytest.raises(InputError, match=says):
            detector.run(wrong)
    for boxes, says in (([], "for 0 frames, but there are 2"), ([FACE, np.zeros((1, 3))], "must be .N,4.")):
        with pytest.raises(InputError, match=says):
            detector.run(frames, boxes=boxes)
    assert set(detector.run(frames, Options(columns=["Pitch"]))[0].values) == {
        "boxes_xyxy_px", "scores", "points_xy_px", "pose",
    }  # fmt: skip
    with_boxes = detector.run(frames, boxes=[FACE, np.empty((0, 4), np.float32)])
    assert [len(r) for r in with_boxes] == [1, 0]
    assert with_boxes[0].pose.shape == (1, 6)


def test_the_observer_hears_of_every_stage_after_the_run(v1_edge_bundle, frame):
    heard = []
    detector = Detector(v1_edge_bundle, observe=lambda *note: heard.append(note))
    detector.run([frame_of(frame, 0, "x")])
    stages = {stage for stage, _, _ in heard}
    assert stages == {
        "finding", "faces network", "crops", "landmarks network", "pose network", "identity network", "values",
    }  # fmt: skip
    assert all(seconds >= 0 and items == 1 for _, seconds, items in heard)


def test_buffers_are_reused_and_given_back_after_a_large_frame():
    workspace = Workspace({})
    first = workspace.empty("frames", 1, 3, 100, 100)
    workspace.end_of_call()
    assert workspace.empty("frames", 3, 50, 100).base is first.base
    workspace.empty("frames", 1, 3, 1000, 1000)
    workspace.end_of_call()
    large = workspace.buffer_bytes
    for _ in range(20):
        workspace.empty("frames", 1, 3, 100, 100)
        workspace.end_of_call()
    assert workspace.buffer_bytes < large / 10
    workspace.empty("frames", 1, 3, 100, 100)
    workspace.end_of_call()
    for _ in range(40):  # a buffer that no call asks for any more
        workspace.empty("other", 10)
        workspace.end_of_call()
    assert workspace.buffer_bytes == 40


def test_a_detector_keeps_no_more_than_recent_frames_need(frame):
    detector = Detector()
    (workspace,) = detector._workspaces._all
    detector.detect(np.tile(frame, (4, 4, 1)))
    large = workspace.buffer_bytes
    for _ in range(17):
        detector.detect(frame)
    assert workspace.buffer_bytes < large / 4


def test_an_idle_workspace_gives_its_buffers_back_too(frame):
    detector = Detector(workspaces=2)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(detector.detect, [np.tile(frame, (2, 2, 1))] * 2))
    with detector._workspaces.lent() as first, detector._workspaces.lent() as second:
        for workspace in (first, second):
            workspace.empty("frames", 10_000_000)
    for _ in range(20):
        detector.detect(frame)
    assert detector._workspaces.buffer_bytes < 15_000_000


def test_the_packaged_detector_pickles_without_a_path(photo):
    data = pickle.dumps(Detector())
    assert b"bundles" not in data
    assert len(pickle.loads(data).detect(photo)) == 1


def test_a_detector_pickles_by_path_and_place(v1_edge_bundle, photo):
    detector = Detector(v1_edge_bundle, threads=1, workspaces=2)
    for again in (pickle.loads(pickle.dumps(detector)), copy.deepcopy(detector)):
        assert again.place == detector.place
        assert len(again._workspaces) == 2
        assert np.array_equal(again.detect(photo).values, detector.detect(photo).values, equal_nan=True)


def test_worker_processes_make_their_own(photo):
    program = (
        "import sys\nfrom concurrent.futures import ProcessPoolExecutor\nimport multiprocessing\n"
        "from fexruntime import Detector\n"
        "if __name__ == '__main__':\n"
        "    d = Detector(threads=1)\n"
        "    with ProcessPoolExecutor(2, multiprocessing.get_context('spawn')) as pool:\n"
        "        print([len(f) for f in pool.map(d.detect, sys.argv[1:])])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, photo, photo], capture_output=True, encoding="utf-8", timeout=120, check=False
    )
    assert done.stdout.strip() == "[1, 1]", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here: not checked that a fork can end")
@pytest.mark.parametrize(
    "end",
    [
        "detector.close(); os._exit(0)",
        "sys.exit(0)",
        "del detector; sys.exit(0)",
        "detector.detect(sys.argv[1]); sys.exit(0)",
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_a_fork_of_a_process_with_a_detector_can_close_and_end(photo, end, shared):
    """The threads of a session do not survive a fork: joining them would wait for ever."""
    program = (
        "import os, sys\nfrom fexruntime import Detector\n"
        f"detector = Detector(threads=2, shared_pool={shared}); detector.detect(sys.argv[1])\n"
        "pid = os.fork()\n"
        f"if pid == 0:\n    {end}\n"
        "_, status = os.waitpid(pid, 0)\n"
        "print('child ended', status, len(detector.detect(sys.argv[1])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, photo], capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    assert done.stdout.strip() == "child ended 0 1", done.stderr


def test_a_frame_that_cannot_be_run_is_named_and_goes_to_on_bad(frame, monkeypatch):
    detector = Detector()
    network = type(detector._networks["faces"])
    infer = network.infer

    def fails(self, inputs, out=None):
        if next(iter(inputs.values())).shape[2] > 400:
            raise InferenceError("ONNX Runtime could not run it: bad_alloc")
        return infer(self, inputs, out)

    monkeypatch.setattr(network, "infer", fails)
    small = np.ascontiguousarray(frame[:300])
    with pytest.raises(
        InferenceError, match=r"'tensor' \(512 x 512\) could not be read.*bad_alloc.*smaller detector_size"
    ):
        detector.detect(frame)
    bad = []
    for batch_size in (1, 3):
        results = list(detector.stream([small, frame, small], batch_size=batch_size, on_bad=bad.append))
        assert [r.index for r in results] == [0, 2]
    assert len(bad) == 2
    assert all(isinstance(e, InferenceError) for e in bad)


def test_memory_that_is_not_there_is_one_frames_error(tmp_path, photo):
    """A large picture under a limit: one sentence, the other pictures' rows are written, the detector goes on."""
    import cv2

    cv2.imwrite(str(tmp_path / "big.png"), np.zeros((4000, 6000, 3), np.uint8))
    program = (
        "import resource, sys\nfrom fexruntime import Detector\n"
        "detector = Detector(threads=1); detector.detect(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000,) * 2)\n"
        "bad = []\n"
        "print([r.index for r in detector.stream([sys.argv[1], sys.argv[2], sys.argv[1]], on_bad=bad.append)])\n"
        "print([type(e).__name__ for e in bad], 'big.png' in str(bad[0]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, photo, tmp_path / "big.png"], capture_output=True, encoding="utf-8", check=False
    )
    assert done.stdout.splitlines() == ["[0, 2]", "['OutOfMemoryError'] True"], done.stderr


def test_a_shared_pool_is_for_good_and_is_said_so():
    program = (
        "from fexruntime import Detector, FexportError\n"
        "Detector(threads=1, shared_pool=True)\n"
        "for options in ({'threads': 1}, {'threads': 2, 'shared_pool': True}):\n"
        "    try: Detector(**options)\n"
        "    except FexportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=False)
    first, second = done.stdout.splitlines()
    assert "give shared_pool=True here too" in first
    assert "a pool of 1 threads, made once" in second
