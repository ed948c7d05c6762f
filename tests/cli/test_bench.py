"""The benchmark's plumbing: what is kept and said. No test asserts how long anything takes."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from command import fexport, refused

from fexport.bench import cold, measure, report, workload
from fexport.bench.measure import Sample
from fexruntime import open_bundle
from fexruntime.backends.base import Place
from fexruntime.errors import EnvironmentMissingError, InputError


def test_a_run_keeps_its_samples_and_shows_them(tmp_path):
    done = fexport("bench", "edge", "--rounds", "4", "--size", "320x240", "--networks", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "outside the networks" in done.stdout
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "samples.json", "report.md", "report.html", "latency.png", "stages.png",
    }  # fmt: skip
    result = json.loads((tmp_path / "out" / "samples.json").read_text(encoding="utf-8"))
    assert len(result["fexport"]["samples"]) == 4
    assert result["workload"]["frame"] == "320 x 240"
    assert result["networks"]["faces"]["network"] == "retinaface-mobilenet025"
    assert result["networks"]["faces"]["backend"] == "onnxruntime"
    assert len(result["start_up"]) == 3
    assert all(0 < run["steady_mb"] < 4000 for run in result["start_up"])
    assert "Resident after 10 more frames there" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert sum(result["fexport"]["stages_ms"].values()) > 0
    assert (tmp_path / "out" / "latency.png").read_bytes().startswith(b"\x89PNG")
    # the same command again replaces what it wrote, and leaves what somebody put beside it
    (tmp_path / "out" / "notes.txt").write_text("mine", encoding="utf-8")
    done = fexport("bench", "edge", "--rounds", "3", "--no-start-up", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "samples.json").read_text(encoding="utf-8"))
    assert len(result["fexport"]["samples"]) == 3
    assert (tmp_path / "out" / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_the_number_of_faces_is_given_to_the_networks(v1_edge_bundle):
    frame = workload.frame_of(None, (320, 240))
    boxes = workload.boxes_for(5, *frame.shape[:2])
    with workload.Workload(open_bundle(v1_edge_bundle), boxes) as work:
        fex, stages = work.run(frame)
    assert len(fex) == 5
    assert set(stages) >= {"faces network", "landmarks network", "identity network", "finding", "crops", "values"}
    assert workload.REST in stages


@pytest.mark.parametrize("faces", [1, 2, 5, 12])
def test_boxes_lie_inside_the_frame_apart_from_each_other(faces):
    boxes = np.array(workload.boxes_for(faces, 480, 640))
    assert len(boxes) == faces
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 640
    assert boxes[:, 3].max() <= 480
    with pytest.raises(InputError):
        workload.boxes_for(0, 480, 640)


def test_statistics_and_noise():
    steady = [Sample(10.0 + k / 10, 20.0) for k in range(20)]
    found = measure.statistics(steady)
    assert found["p50_ms"] == pytest.approx(10.95)
    assert found["max_ms"] == pytest.approx(11.9)
    assert found["frames_per_second"] == pytest.approx(1e3 / 10.95)
    assert measure.noise(steady) is None
    assert "other processes used 20%" in measure.noise([Sample(10, 20, 0.2)] * 5)
    assert "not steady" in measure.noise([Sample(10, 20)] * 16 + [Sample(30, 20)] * 4)


def _worker(path, monkeypatch, faces=1):
    """A program that answers the worker's protocol in py-feat's stead, of networks that an edge bundle has."""
    from fexport.bench import pyfeat, runner

    path.write_text(
        "import json, sys\n"
        "config = json.loads(sys.argv[1])\n"
        "def say(**v): print(json.dumps(v), flush=True)\n"
        "say(ready=True, load_s=1.0, versions={'py-feat': 'stand-in'}, installed_mb={'rest': 1000.0, 'cuda': 5000.0})\n"
        "cpu = 900.0 if config['threads'] > 1 else 400.0\n"
        f"said = dict(foreign_share=0.5, faces={faces}, rss_mb=100.0, peak_mb=200.0)\n"
        "for line in sys.stdin: say(wall_ms=500.0, cpu_ms=cpu, **said)\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(pyfeat, "WORKER", path)
    monkeypatch.setattr(pyfeat, "_version", lambda python: "2.0.3")
    monkeypatch.setattr(pyfeat, "DETECTORS", {"detectorv1": ("retinaface-mobilenet025",)})
    monkeypatch.setattr(runner, "PAUSE_S", 0.0)


@pytest.mark.parametrize("options", [None, {"output_size": 200}, {"detector_size": 160}])
def test_a_fresh_process_reads_the_workload(v1_edge_bundle, options):
    frame = workload.frame_of(None, (320, 240))
    (run,) = cold.start(str(v1_edge_bundle), Place(threads=1), frame, workload.boxes_for(2, 240, 320), options, times=1)
    assert set(run) == {"import_s", "load_s", "first_frame_s", "rss_mb", "peak_mb", "steady_mb"}
    assert all(value > 0 for value in run.values())


def test_a_comparison_goes_through_a_worker_in_another_environment(v1_edge_bundle, tmp_path, monkeypatch):
    """A worker that answers the protocol stands in for py-feat: what is tested is the taking of turns and the ratio."""
    from fexport.bench import runner

    _worker(tmp_path / "worker.py", monkeypatch)
    options = runner.Options(
        str(v1_edge_bundle),
        size_wh=(160, 120),
        threads=2,
        rounds=3,
        start_up=False,
        networks=True,
        against=Path(sys.executable),
    )
    result = runner.run(options)
    ours = result["fexport"]["statistics"]["p50_ms"]
    assert result["ratio"]["p50"] == pytest.approx(500 / ours)
    assert result["pyfeat"]["networks"]["landmarks"]["ratio"] > 0
    assert "ratio" not in result["pyfeat"]["networks"]["pose"]
    alone = {role: n.get("on_threads") for role, n in result["pyfeat"]["networks"].items()}
    assert alone["pose"] is None  # it reads what networks say: py-feat runs it in no part of its own
    threaded = alone["landmarks"]
    assert (threaded["threads"], set(threaded["pyfeat_wall_ms"])) == (2, {500.0})
    assert len(threaded["wall_ms"]) == len(threaded["pyfeat_wall_ms"]) == 3 * runner.RUNS_A_TURN
    assert threaded["ratio"] == pytest.approx(500 / np.median(threaded["wall_ms"]))
    text = report.markdown(result)
    assert "network alone, 2 threads, wall ms" in text
    for said in (
        "times py-feat",
        "NOISY (py-feat): other processes used 50%",
        "at most 200 MB",
        "5000 MB more",
        "1 face, 3 samples",
    ):
        assert said in text
    assert set(result["gflop"]) >= {"faces", "landmarks", "identity"}
    assert result["machine"]["date"][:2] == "20"
    _worker(tmp_path / "worker.py", monkeypatch, faces=7)
    with pytest.raises(InputError, match="1 face on this frame and py-feat 7"):
        runner.run(options)


def test_other_work_than_pyfeats_is_refused_before_anything_is_measured(v1_edge_bundle, monkeypatch):
    from fexport.bench import pyfeat

    monkeypatch.setattr(pyfeat, "_version", lambda python: "2.1.5")
    bundle = open_bundle(v1_edge_bundle)
    with pytest.raises(InputError, match="finds faces with retinaface-mobilenet025"):
        pyfeat.refuse_other_work(bundle, Path("python"))
    monkeypatch.setattr(pyfeat, "DETECTORS", {"detectorv1": ("retinaface-mobilenet025",)})
    with pytest.raises(InputError, match=r"follows pyfeat-2\.0, and 'python' has py-feat 2\.1\.5"):
        pyfeat.refuse_other_work(bundle, Path("python"))


def test_what_pyfeat_cannot_do_is_one_sentence(v1_edge_bundle, tmp_path):
    refused(fexport("bench", v1_edge_bundle, "--against", "pyfeat"), "--pyfeat-python")
    refused(fexport("bench", "edge", "--size", "big"), "WIDTHxHEIGHT")
    against = ("--against", "pyfeat", "--out", tmp_path, "--pyfeat-python")
    refused(fexport("bench", "edge", *against, sys.executable), "py-feat has no detector")
    refused(fexport("bench", v1_edge_bundle, *against, sys.executable), "retinaface-mobilenet025", "--face-detector")


def test_an_environment_without_pyfeat_is_one_sentence(tmp_path):
    from fexport.bench import pyfeat

    with pytest.raises(EnvironmentMissingError, match="there is no py-feat in the environment"):
        pyfeat._version(Path(sys.executable))
    with pytest.raises(EnvironmentMissingError, match="cannot start"):
        pyfeat._version(tmp_path / "missing")


@pytest.mark.parametrize("given", ["env/bin/python", "python-of-pyfeat"], ids=["relative", "on PATH"])
def test_the_python_of_pyfeat_is_found_as_it_was_given(tmp_path, monkeypatch, given):
    """The worker runs in another folder: neither a relative path nor a name on PATH may be looked up from there."""
    from fexport.bench import pyfeat

    python = tmp_path / "env" / "bin" / Path(given).name
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\ntouch "{tmp_path}/called"\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(python.parent), prepend=":")
    with pytest.raises(EnvironmentMissingError, match="there is no py-feat in the environment"):
        pyfeat._version(Path(given))
    assert (tmp_path / "called").exists()
    (tmp_path / "called").unlink()
    _worker(tmp_path / "worker.py", monkeypatch)
    frame = np.zeros((48, 64, 3), np.uint8)
    with pyfeat.PyFeat(Path(given), "detectorv1", None, None, 1, None, frame) as worker:
        assert worker.frame().wall_ms == 500.0
    assert (tmp_path / "called").exists()


def test_bundles_of_other_networks_are_not_compared(v1_edge_bundle, monkeypatch):
    from fexport.bench import bundles, runner

    whole = open_bundle(v1_edge_bundle)
    without = dataclasses.replace(whole, networks={r: n for r, n in whole.networks.items() if r != "identity"})
    other = dataclasses.replace(whole, networks={**whole.networks, "landmarks": whole.networks["identity"]})
    bundles._refuse_other_work([whole, whole], ("a", "b"))
    with pytest.raises(InputError, match="identity is facenet in the first and left out in the second"):
        bundles._refuse_other_work([whole, without], ("a", "b"))
    with pytest.raises(InputError, match="identity is left out in the first and facenet in the second"):
        bundles._refuse_other_work([without, whole], ("a", "b"))
    with pytest.raises(InputError, match="landmarks is mobilefacenet in the first and facenet in the second"):
        bundles._refuse_other_work([whole, other], ("a", "b"))
    monkeypatch.setattr(bundles, "open_bundle", {"a": whole, "b": without}.get)
    with pytest.raises(InputError, match="only bundles of the same networks"):
        bundles.run(runner.Options("a"), "b")


def test_bundles_that_read_other_numbers_of_faces_are_not_compared(monkeypatch):
    """The counts of the frame that both have read; nothing is measured."""
    from fexport.bench import bundles, runner

    counts = iter((1, 3))
    monkeypatch.setattr(workload, "faces_of", lambda fex: next(counts))
    monkeypatch.setattr(bundles, "Meter", None)
    with pytest.raises(InputError, match=r"'edge' reads 1 face on this frame and 'edge' 3 faces.*--faces N"):
        bundles.run(runner.Options("edge", size_wh=(160, 120), faces=None, warmup=1), "edge")


def test_two_bundles_in_turns(tmp_path):
    """Speed and differences of a bundle in two precisions, in one table."""
    low = tmp_path / "fp16"
    done = fexport("build", low, "--pipeline", "faces", "--fp16")
    assert done.returncode == 0, done.stderr
    for _ in range(2):
        done = fexport("bench", "edge", "--against", low, "--rounds", "3", "--warmup", "1", "--out", tmp_path / "out")
        assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "bundles.json").read_text(encoding="utf-8"))
    assert [len(side["samples"]) for side in result["sides"]] == [3, 3]
    assert [side["describe"]["faces"]["precision"] for side in result["sides"]] == ["fp32", "fp16"]
    assert result["differences"]["faces"] == 1
    boxes = next(g for g in result["differences"]["groups"] if g["group"] == "facebox")
    assert 0 < boxes["max"] < 2.0
    assert "| edge |" in done.stdout or "bundles/edge" in done.stdout


def test_bundles_of_two_pipelines_are_not_compared(tmp_path):
    done = fexport("bench", "edge", "--against", "facemesh", "--rounds", "3", "--out", tmp_path / "out")
    refused(done, "only bundles of one pipeline and contract can be compared")


@pytest.mark.skipif(shutil.which("g++") is None, reason="the stand-in needs g++")
def test_a_gpus_stages_are_by_its_clock_and_its_memory_is_said(driver, tensorrt):
    """On stand-ins of the driver and TensorRT: what is tested is what is measured and said, not how fast it is."""
    from fexport.bench import runner

    tensorrt("edge")
    options = runner.Options(
        "edge", size_wh=(512, 512), faces=None, rounds=5, warmup=4, start_up=False,
        backend="tensorrt", device="cuda", pixels="cuda",
    )  # fmt: skip
    result = runner.run(options)
    stages = result["fexport"]["stages_ms"]
    assert {"upload", "finding", "faces network", "copy back", "asking the GPU"} <= set(stages)
    assert stages["faces network"] > 0
    assert result["fexport"]["vram_mb"] > 4  # buffers of a frame of 512 x 512, at least
    assert result["fexport"]["vram_total_mb"] == pytest.approx((4 << 30) / 1e6)
    text = report.markdown(result)
    assert "Stages are by the GPU's clock (CUDA events)" in text
    assert f"; on the GPU {result['fexport']['vram_mb']:.0f} MB" in text
    assert driver.standin_open() == 0


def test_cpu_time_of_networks_is_not_of_a_gpu(tmp_path):
    done = fexport("bench", "edge", "--networks", "--device", "cuda", "--out", tmp_path / "out")
    refused(done, "--networks measures CPU time of networks: leave it out with --device")


def test_with_an_output_size_frames_are_found_at_that_size(tmp_path, monkeypatch):
    picture = tmp_path / "frame.png"
    workload.write_picture(workload.frame_of(None, (960, 540)), picture)
    with workload.Workload(open_bundle("edge"), [[10.0, 10.0, 90.0, 110.0]], output_size=320) as work:
        seen, real = [], work.detector.run

        def run(frames, *more):
            seen.extend(frame.rgb_u8.shape for frame in frames)
            return real(frames, *more)

        monkeypatch.setattr(work.detector, "run", run)
        work.run(picture)
    assert seen == [(320, 320, 3)] * 2
