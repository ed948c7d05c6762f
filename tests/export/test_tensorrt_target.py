"""`--target tensorrt` on a machine without a GPU: the graphs are linted, and the command for the GPU's machine is named."""

from __future__ import annotations

import shutil

import pytest
from command import fexport
from tensorrt_standin import standin

from fexport import build, plan, tensorrt_lint
from fexport.tensorrt_lint import Finding
from fexruntime.bundle import open_bundle

CHOICES = ("--face-detector", "retinaface-mobilenet025", "--landmarks", "none", "--pose", "none", "--au", "none",
           "--emotion", "none", "--gaze", "none", "--identity", "none")  # fmt: skip


def test_the_command_names_what_makes_engines(tmp_path):
    out = tmp_path / "bundle"
    done = fexport(
        "build", out, "--pipeline", "detectorv1", *CHOICES, "--target", "tensorrt", CUDA_VISIBLE_DEVICES="-1"
    )
    assert done.returncode == 0, done.stderr
    assert f"fexport engines {out}" in done.stdout.replace("\n", "")
    record = open_bundle(out).networks["faces"].record
    assert record.not_held == {}
    assert record.variants[0].verified_on == ("onnxruntime",)


@pytest.mark.skipif(shutil.which("g++") is None, reason="the stand-in needs g++")
def test_on_a_machine_with_a_gpu_it_makes_the_engines_too(driver, monkeypatch, capsys):
    from fexport.cli.build import _make_engines
    from fexruntime.bundle import edge_bundle_path

    trt, _ = standin("10.3.0")
    monkeypatch.setattr("fexport.tensorrt_engines.import_tensorrt", lambda: trt)
    _make_engines(edge_bundle_path())
    assert "faces: retinaface-mobilenet025, fp32" in capsys.readouterr().out
    _make_engines(edge_bundle_path())
    assert "faces: retinaface-mobilenet025 is there already" in capsys.readouterr().out


def test_a_graph_that_fails_the_lint_is_not_for_tensorrt(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt_lint, "lint", lambda model: [Finding("opset", "opset 18", "too new")])
    roles = {"faces": "retinaface-mobilenet025"} | dict.fromkeys(
        ("landmarks", "pose", "au", "emotion", "gaze", "identity"), "none"
    )
    made = plan.plan("detectorv1", None, roles, targets=("tensorrt",))
    assert made.targets == ("onnxruntime", "tensorrt")
    build.build(made, tmp_path / "bundle")
    assert open_bundle(tmp_path / "bundle").networks["faces"].record.not_held == {
        "tensorrt": "opset: opset 18: too new"
    }


@pytest.mark.filterwarnings("ignore::fexruntime.errors.StandInWarning")
def test_every_network_of_the_pipelines_passes(v2_bundle, v1_whole_bundle):
    import onnx

    graphs = [p for folder in (v2_bundle, v1_whole_bundle) for p in sorted(folder.glob("*.onnx"))]
    assert len(graphs) > 5
    for path in graphs:
        for version in ("8.6", "10.3", "11.4"):
            assert tensorrt_lint.lint(onnx.load(path), version) == [], path.name
