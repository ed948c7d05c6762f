"""The other commands, as a user calls them: exit status, what they say, what they leave."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import fexport, refused

from fexruntime.bundle import edge_bundle_path


def test_bad_targets_are_found_before_the_work(photo, tmp_path):
    refused(fexport("run", photo, "--out", tmp_path / "faces.xlsx"), ".csv, .parquet, .jsonl")
    (tmp_path / "file").write_text("", encoding="utf-8")
    refused(fexport("run", photo, "--out", tmp_path / "file" / "faces.csv"), "is not a folder")
    refused(fexport("run", photo, "--overlay", tmp_path / "file" / "o"), "is not a folder")
    refused(fexport("build", tmp_path / "file", "--pipeline", "faces"), "it is a file")
    refused(fexport("build", tmp_path / "file" / "b", "--pipeline", "faces"), "is not a folder")


def test_a_folder_that_is_not_writable(photo, tmp_path):
    folder = Path("/proc") if os.geteuid() == 0 else tmp_path  # root may write anywhere else
    tmp_path.chmod(0o500)
    refused(fexport("run", photo, "--out", folder / "faces.csv"), "cannot write into")
    refused(fexport("run", photo, "--overlay", folder / "o"), "cannot write into")
    refused(fexport("build", folder / "b", "--pipeline", "faces"), "cannot write into")


def test_bad_choices_name_the_good_ones(photo, tmp_path):
    refused(fexport("run", photo, "--device", "cuda"), "faces cannot be run on 'cuda'", "--backend onnxruntime-cuda")
    refused(fexport("run", photo, "--backend", "tflite"), "onnxruntime")
    refused(fexport("run", "edge"), "nothing to run on")
    refused(fexport("run", photo, "--output-size", "3"), "32")
    refused(fexport("build", tmp_path / "b", "--pipeline", "detectorv9"), "detectorv2")
    refused(fexport("build", tmp_path / "b", "--weights", tmp_path / "none"), "is not a folder")
    refused(fexport("inspect", tmp_path), "is not a bundle")
    refused(fexport("dance"), "dance")


def test_build_without_weights_says_what_is_missing(tmp_path):
    (tmp_path / "w").mkdir()
    done = fexport("build", tmp_path / "b", "--weights", tmp_path / "w")
    assert done.returncode == 1
    assert "weights are missing: retinaface_r34.safetensors (retinaface-r34, 88.6 MB, MIT, of py-feat/" in done.stderr
    assert len(done.stderr[done.stderr.index("Error: ") :].strip().splitlines()) == 1
    assert not (tmp_path / "b").exists()


def test_offline_mode_is_honoured_and_the_fix_named(tmp_path):
    done = fexport("build", tmp_path / "b", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hub"))
    assert done.returncode == 1
    assert (
        "no connection to it, and nothing of them in its cache); give a folder that has them with --weights DIR"
        in done.stderr
    )
    assert len(done.stderr[done.stderr.index("Error: ") :].strip().splitlines()) == 1


def test_build_verify_inspect(tmp_path):
    done = fexport("build", "here/bundle", "--pipeline", "faces", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "MIT" in done.stderr
    assert [p.name for p in (tmp_path / "here").iterdir()] == ["bundle"]
    done = fexport("verify", tmp_path / "here" / "bundle")
    assert done.returncode == 0
    assert "byte for byte" in done.stdout
    assert "the recorded answers are reproduced" in done.stdout
    assert "artefact against torch" in done.stdout
    done = fexport("inspect", tmp_path / "here" / "bundle")
    assert "with fexport" in done.stdout
    assert json.loads(fexport("inspect", "--json").stdout)["pipeline"] == "faces"


def test_verify_finds_a_changed_byte(tmp_path):
    shutil.copytree(edge_bundle_path(), tmp_path / "b")
    data = bytearray((tmp_path / "b" / "faces.onnx").read_bytes())
    data[-1000] ^= 4
    (tmp_path / "b" / "faces.onnx").write_bytes(data)
    refused(fexport("verify", tmp_path / "b"), "is not the file that was verified")
    refused(fexport("run", tmp_path / "b", __file__), "is not the file that was verified")


def test_verify_finds_answers_that_are_not_reproduced(tmp_path):
    """The digests agree, the numbers do not: another runtime that computes something else."""
    import hashlib
    import io

    import numpy as np

    shutil.copytree(edge_bundle_path(), tmp_path / "b")
    path = tmp_path / "b" / "faces.canonical.npz"
    recorded = dict(np.load(path))
    recorded["output.conf"] = recorded["output.conf"] + np.float32(1e-3)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **recorded)
    path.write_bytes(buffer.getvalue())
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text(encoding="utf-8"))
    manifest["networks"]["faces"]["variants"][0]["canonical"]["sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    done = fexport("verify", tmp_path / "b")
    assert done.returncode == 1
    assert "not reproduced" in done.stderr


def test_models_lists_licences_and_sizes():
    done = fexport("models")
    assert done.returncode == 0
    for text in (
        "arcface",
        "non-commercial",
        "88.6 MB",
        "pyfeat-2.1",
        "pose_mlp_v2.json",
        "unresolved",
        "2e4495d934ed",
        "no pin",
    ):
        assert text in done.stdout
    rows = json.loads(fexport("models", "--json").stdout)
    assert rows["networks"]["multitask-v28"]["files"][0]["filename"] == "face_multitask_v28.safetensors"


def test_doctor_has_a_verdict():
    done = fexport("doctor")
    assert done.returncode == 0, done.stdout
    assert "`fexport run` works here." in done.stdout


def test_help_and_version():
    assert "build" in fexport("--help").stdout
    assert "0.1.0" in fexport("--version").stdout


def test_the_readmes_commands_are_in_the_makefile():
    root = Path(__file__).parents[2]
    readme, makefile = ((root / name).read_text(encoding="utf-8") for name in ("README.md", "Makefile"))
    for target in ("demo", "test"):
        assert f"make {target}" in readme
        assert f"\n{target}:" in makefile
    assert "make test" in (root / ".ci" / "run").read_text(encoding="utf-8")


def test_verify_compares_the_packaged_mesh_with_the_weights_that_come_with_fexport():
    done = fexport("verify", "facemesh")
    assert done.returncode == 0, done.stderr
    assert "not compared" not in done.stdout
    assert "mesh" in done.stdout.partition("the recorded answers are reproduced")[2]


def test_verify_on_a_backend_that_takes_nothing_of_the_bundle_is_refused():
    """It ran on another instead, and said that the answers are reproduced."""
    refused(fexport("verify", "edge", "--backend", "ncnn"), "has no fp32 artefact of kind ncnn in this bundle")
    assert fexport("verify", "edge", "--backend", "openvino").returncode == 0  # it reads the graph for any


def test_verify_without_the_export_extra_says_what_it_left_out(tmp_path):
    """torch may be there without onnx: an ordinary environment that runs bundles."""
    program = (
        "import sys; sys.modules['onnx'] = None\nfrom fexport.cli import main\nsys.argv = ['fexport', 'verify']\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert "not compared with torch: comparing with torch needs onnx" in done.stdout
    refused(fexport("verify", "--weights", tmp_path / "none"), "is not a folder")


def test_doctors_fixes_name_the_extras():
    program = "import sys; sys.modules['pandas'] = None\nfrom fexport.cli import doctor\ndoctor.find_spec = lambda name: None\ndoctor.command()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"COLUMNS": "200"},
        check=False,
    )
    assert "pip install 'pandas>=" in done.stdout
    assert done.returncode == 1


def test_one_option_a_stage_is_made_from_the_table():
    from fexruntime.contracts import PIPELINES, is_inner

    help_text = fexport("build", "--help").stdout
    for row in PIPELINES:
        for stage in row.stages:
            # what is there for later stages alone is nobody's choice
            assert (f"--{stage.role} " in help_text) == (not is_inner(stage))
            for name in stage.names:
                assert name in help_text
    assert "--face-detector" in help_text


def test_build_leaves_out_what_is_not_wanted_and_takes_several_folders(tmp_path):
    (tmp_path / "a").mkdir()
    arguments = ("--pipeline", "detectorv1", "--face-detector", "retinaface-mobilenet025", "--landmarks", "none")
    arguments += ("--au", "none", "--emotion", "none", "--gaze", "none")
    weights = ("--weights", tmp_path / "a", "--weights", tmp_path)
    refused(fexport("build", tmp_path / "b", *arguments, *weights), "--pose none")
    done = fexport("build", tmp_path / "b", *arguments, "--pose", "none", "--identity", "none", *weights)
    assert done.returncode == 0, done.stderr
    assert "1 network, all within tolerance" in done.stdout


def test_the_cache_is_listed_and_emptied(photo, tmp_path):
    environment = {"FEXPORT_CACHE": str(tmp_path / "cache")}
    assert fexport("cache", "--path", **environment).stdout.strip() == str(tmp_path / "cache")
    assert "0 items" in fexport("cache", **environment).stdout
    fexport("run", photo, **environment)
    listed = fexport("cache", **environment).stdout
    assert "optimised ONNX graph" in listed
    assert "1 items" in listed
    assert "dropped" in fexport("cache", "--clear", **environment).stdout
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "cache").chmod(0o777)
    refused(fexport("cache", **environment), "there is no cache", "set FEXPORT_CACHE")


def test_a_bundle_of_format_1_names_the_command_and_the_command_works(tmp_path, photo):
    import json as j

    bundle = tmp_path / "bundle"
    shutil.copytree(edge_bundle_path(), bundle)
    manifest = j.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    entry = manifest["networks"]["faces"]
    old = {k: entry[k] for k in ("network", "title", "inputs", "outputs", "weights")}
    old |= {"model": {"file": "faces.onnx"}, "canonical": {"file": "faces.canonical.npz"}}
    (bundle / "manifest.json").write_text(
        j.dumps(manifest | {"format": 1, "networks": {"faces": old}}), encoding="utf-8"
    )
    done = fexport("run", bundle, photo)
    refused(done, "has format 1; this version reads 2", "make it again with `fexport build")
    (command,) = re.findall("`fexport (build[^`]*)`", done.stderr)
    done = fexport(*command.split())
    assert done.returncode == 0, done.stderr
    assert fexport("run", bundle, photo).returncode == 0


def test_doctor_tries_what_run_does():
    program = (
        "import sys, onnxruntime as ort\n"
        "del ort.set_global_thread_pool_sizes\n"
        "ort.__version__ = '1.20.0'\n"
        "from fexport.cli import main\nsys.argv = ['fexport', 'doctor']\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"COLUMNS": "200"},
        check=False,
    )
    assert done.returncode == 1
    assert "needs ONNX Runtime 1.23" in done.stdout
    program = (
        "import sys; sys.modules['cv2'] = None\nfrom fexport.cli import main\nsys.argv = ['fexport', 'doctor']\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1, done.stdout
    assert "cannot be imported" in done.stdout


def test_doctor_names_what_each_backend_of_a_gpu_lacks(monkeypatch):
    from fexport.cli import doctor
    from fexruntime.driver import Gpu
    from fexruntime.errors import EnvironmentMissingError
    from fexruntime.ops import nvrtc

    whats = ["backend tensorrt", "backend onnxruntime-cuda", "pixels on the GPU"]

    def no_nvrtc():
        raise EnvironmentMissingError("none")

    monkeypatch.setattr("fexruntime.driver.LIBRARY", "libcuda-that-is-not-there.so")
    found = doctor._gpu_backends()
    assert [f.what for f in found] == whats
    assert all("no NVIDIA driver here" in f.found and not f.good for f in found)
    monkeypatch.setattr("fexruntime.driver.gpu", lambda: Gpu("H100", "9.0", "12.8"))
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(nvrtc, "version", no_nvrtc)
    found = doctor._gpu_backends()
    assert [f.what for f in found] == whats
    assert [f.good for f in found] == [False, False, False]
    assert "H100 (9.0), driver 12.8, no TensorRT" in found[0].found
    assert "ONNX Runtime without CUDAExecutionProvider" in found[1].found
    assert [f.fix for f in found] == [
        "pip install tensorrt; on a Jetson JetPack's",
        "pip uninstall -y onnxruntime && pip install 'fexport[gpu]'",
        "pip install 'fexport[nvrtc]'",
    ]
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    monkeypatch.setattr(nvrtc, "version", lambda: "13.0")
    assert [f.good for f in doctor._gpu_backends()] == [True, False, True]


def test_pixels_on_a_gpu_that_is_not_there_are_an_error(photo):
    done = fexport("run", "edge", photo, "--pixels", "cuda")
    refused(
        done,
        "--pixels cuda needs faces on a GPU: give --device cuda and --backend tensorrt or --backend onnxruntime-cuda",
    )
    refused(
        fexport("run", "facemesh", photo, "--pixels", "cuda"),
        "--pixels cuda needs a face detector",
        "give --pixels cpu",
    )
    done = fexport(
        "run", "edge", photo, "--pixels", "cuda", "--backend", "tensorrt", "--device", "cuda", CUDA_VISIBLE_DEVICES="-1"
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--device", "cuda"),
            "by the backend 'onnxruntime', which has cpu: give --device cpu, or for cuda --backend onnxruntime-cuda",
        ),
        (("--device", "vulkan:x"), "--device vulkan:x is not a kind and a number"),
        (("--threads", "10000"), "--threads 10000 cannot be meant"),
        (("--columns", "track"), "give --track or --detect-every"),
        (("--use-prev-landmarks",), "--use-prev-landmarks: 'faces' has no mesh"),
    ],
)
def test_errors_name_options_and_not_arguments_of_python(photo, options, said):
    refused(fexport("run", "edge", photo, *options), said)


def test_words_paths_and_quotations_are_no_options():
    from fexport.cli.options import as_options
    from fexport.cli.run import command

    for text in (
        "the backend 'ncnn' and device of a detector_sizes",
        "out/skip_frames.csv",
        "'max_pixels'",
        "max_pixels()",
    ):
        assert as_options(text, command.params) == text
    assert as_options("give rotate=False, or track=True", command.params) == "give --no-rotate, or --track"


def test_an_option_of_another_command_is_named_with_it(photo):
    refused(fexport("run", photo, "--fp16"), "No such option '--fp16'. It is an option of `fexport build`.")
    assert "It is" not in fexport("run", photo, "--half").stderr


def test_errors_of_other_processes_and_of_commands_without_the_option_name_options_too(tmp_path):
    done = fexport("engines", "edge", CUDA_VISIBLE_DEVICES="-1")
    refused(done)
    assert "device=" not in done.stderr
    done = fexport("bench", "edge", "--pixels", "cuda", "--out", tmp_path / "out")
    refused(done, "Error: --pixels cuda needs faces on a GPU: give --device cuda")
