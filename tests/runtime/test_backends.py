"""Every backend answers what the reference answers; what is not there is an error."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import GOLDENS
from fex_compare import assert_same_fex
from test_goldens import BOXES

from fexruntime import Detector, Place, open_bundle
from fexruntime.backends import chosen, open_backend, open_variant
from fexruntime.backends.arrays import Arrays
from fexruntime.backends.onnxruntime import OnnxRuntime
from fexruntime.canonical import check_canonical
from fexruntime.contracts.ncnn import SMALL_TILES
from fexruntime.errors import BundleError, EnvironmentMissingError, InputError

NCNN = {"faces": "ncnn", "landmarks": "ncnn", "identity": "ncnn"}
EVERYWHERE = pytest.mark.parametrize(
    "backend", ["onnxruntime", "openvino", NCNN], ids=["onnxruntime", "openvino", "ncnn"]
)


@EVERYWHERE
def test_rows_are_pyfeats_on_every_backend(targets_bundle, photo, backend):
    detector = Detector(targets_bundle, backend=backend)
    assert_same_fex(detector.detect(photo, boxes=BOXES), GOLDENS / "detectorv1_pyfeat215_boxes.csv")
    used = {role: said["backend"] for role, said in detector.describe().items()}
    assert used["identity"] == (backend if isinstance(backend, str) else "ncnn")
    assert {said["precision"] for said in detector.describe().values()} == {"fp32"}


@EVERYWHERE
def test_detectorv2s_rows_are_pyfeats_where_a_backend_holds_its_networks(v2_targets_bundle, photo, backend):
    if not isinstance(backend, str):
        backend = {"faces": "ncnn", "identity": "ncnn"}
    fex = Detector(v2_targets_bundle, backend=backend).detect(photo, boxes=BOXES)
    assert_same_fex(fex, GOLDENS / "detectorv2_pyfeat215_boxes.csv")


@EVERYWHERE
def test_frames_of_any_size(targets_bundle, frame, backend):
    exact, other = Detector(targets_bundle), Detector(targets_bundle, backend=backend)
    for height, width in ((512, 512), (181, 245), (71, 36), (37, 400), (333, 517)):
        image = np.ascontiguousarray(np.tile(frame, (1, 2, 1))[100 : 100 + height, 150 : 150 + width])
        a, b = (d.run([_frame(image)])[0] for d in (exact, other))
        assert len(a) == len(b)
        assert np.allclose(a.boxes_xyxy_px, b.boxes_xyxy_px, atol=0.01)
        assert np.allclose(a.scores, b.scores, atol=1e-4)


def _frame(image):
    from fexruntime.sources.frame import frame_of

    return frame_of(image, 0, "x")


def test_every_artefact_reproduces_its_recorded_answers(targets_bundle):
    checks = check_canonical(open_bundle(targets_bundle))
    assert {c.artefact for c in checks} == {"fp32 onnx", "fp32 ncnn", "fp32 arrays"}
    assert all(c.passed for c in checks)


def test_what_a_backend_cannot_hold_is_in_the_manifest_and_an_error_that_names_it(targets_bundle):
    bundle = open_bundle(targets_bundle)
    assert "ReduceMean" in bundle.networks["pose"].record.not_held["ncnn"]
    assert bundle.networks["faces"].record.not_held == {}
    with pytest.raises(BundleError, match=r"pose-mlp \(pose\) has no fp32 artefact of kind ncnn"):
        Detector(targets_bundle, backend="ncnn")
    with pytest.raises(InputError, match="backend names mouth: this bundle has faces, landmarks, pose, identity"):
        Detector(targets_bundle, backend={"mouth": "ncnn"})
    with pytest.raises(EnvironmentMissingError, match="cannot be run on 'cuda' by the backend 'ncnn'"):
        Detector(targets_bundle, backend=NCNN, device="cuda")


def test_a_bundle_without_the_artefact_says_so():
    with pytest.raises(BundleError, match="has no fp32 artefact of kind ncnn in this bundle: it has fp32 onnx"):
        Detector(backend="ncnn")


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
def test_ncnns_idle_threads_are_told_to_sleep_soon_as_it_is_loaded(tmp_path, given):
    """In its libgomp's environment, for that moment; not where the user says how threads wait."""
    (tmp_path / "ncnn.py").write_text("import os; seen = dict(os.environ)", encoding="utf-8")
    program = (
        "import json, os; from fexruntime.backends import ncnn; seen = ncnn.import_ncnn().seen\n"
        "names = ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')\n"
        "print(json.dumps([{n: e[n] for n in names if n in e} for e in (seen, os.environ)] + [ncnn.SPINS]))"
    )
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment = clean | {"PYTHONPATH": str(tmp_path)} | given
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    while_loaded, after, spins = json.loads(done.stdout)
    assert while_loaded == (given or {"GOMP_SPINCOUNT": str(spins)})
    assert after == given


def test_ncnns_small_tiles_are_a_backend_of_their_own_that_was_held_to_torch(targets_bundle, photo):
    networks = open_bundle(targets_bundle).networks
    verified = {n.row.name: n.variant("fp32", ("ncnn",)).verified_on for r, n in networks.items() if r in NCNN}
    assert {name for name, on in verified.items() if "ncnn-f2x2" in on} == set(SMALL_TILES) & set(verified)
    report = json.loads((targets_bundle / "verification.json").read_text(encoding="utf-8"))
    assert {"identity ncnn", "identity ncnn-f2x2"} < set(report["networks"])
    with Detector(targets_bundle, backend={"identity": "ncnn-f2x2"}) as detector:
        said = detector.describe()["identity"]
        assert said["backend"] == "ncnn-f2x2"
        assert said["off"] == ["use_winograd43_convolution", "use_winograd63_convolution"]
        assert_same_fex(detector.detect(photo, boxes=BOXES), GOLDENS / "detectorv1_pyfeat215_boxes.csv")
    with Detector(targets_bundle, backend={"identity": "ncnn"}) as detector:
        assert "off" not in detector.describe()["identity"]
    with pytest.raises(BundleError, match="was not held to torch on 'ncnn-f2x2', but on ncnn: give one of these"):
        Detector(targets_bundle, backend={"faces": "ncnn-f2x2"})
    with pytest.raises(EnvironmentMissingError, match="on 'vulkan' by the backend 'ncnn-f2x2', which has cpu"):
        Detector(targets_bundle, backend={"identity": "ncnn-f2x2"}, device={"identity": "vulkan"})


def test_small_tiles_compute_otherwise(targets_bundle):
    network = open_bundle(targets_bundle).networks["identity"]
    chips = np.random.RandomState(3).rand(1, *network.record.inputs[0].shape[1:]).astype(np.float32)
    answers = [
        open_backend(network, Place(backend=name, threads=1)).infer({network.record.inputs[0].name: chips})["embedding"]
        for name in ("ncnn", "ncnn-f2x2")
    ]
    assert not np.array_equal(*answers)
    assert np.allclose(*answers, atol=1e-3)


def test_openvino_compiles_once_and_what_it_kept_answers_the_same(targets_bundle, tmp_path, monkeypatch):
    import openvino

    network = open_bundle(targets_bundle).networks["landmarks"]
    place = Place(backend="openvino", threads=1, cache=tmp_path)
    given = {network.record.inputs[0].name: np.random.RandomState(3).rand(2, 3, 112, 112).astype(np.float32)}
    first = open_backend(network, place)
    answers = first.infer(given)
    (kept,) = place.store().items()
    assert kept.key["kind"] == "compiled OpenVINO model"
    compiling = openvino.Core.compile_model
    monkeypatch.setattr(openvino.Core, "compile_model", None)
    second = open_backend(network, place)  # without compiling
    # an object lets go of what it has in this order, and OpenVINO reads the file without holding it
    assert [*vars(second), *vars(second.share())][len(vars(second)) - 1 :: len(vars(second))] == ["_file"] * 2
    assert second._file is not None
    assert second.describe() == first.describe()
    for name, value in second.infer(given).items():
        assert np.array_equal(value, answers[name])
    monkeypatch.setattr(openvino.Core, "compile_model", compiling)
    key, digest = kept.key, hashlib.sha256(b"no model").hexdigest()
    kept.path.unlink()  # it is mapped
    kept.path.write_bytes(b"no model")  # with a note that says so: of another OpenVINO that called itself the same
    kept.note.write_text(json.dumps({"key": key, "sha256": digest, "made": 0}), encoding="utf-8")
    assert np.array_equal(open_backend(network, place).infer(given)["landmarks"], answers["landmarks"])


def test_ncnn_reads_arrays_that_are_no_whole_block_of_memory(targets_bundle):
    network = open_bundle(targets_bundle).networks["landmarks"]
    backend = open_variant(network, network.variant("fp32", ("ncnn",)), Place(threads=1))
    whole = np.random.RandomState(3).rand(2, 3, 112, 112).astype(np.float32)
    strided = np.ascontiguousarray(whole[..., ::-1])[..., ::-1]
    assert not strided.flags.c_contiguous
    (name,) = (t.name for t in backend.spec.inputs)
    expected = backend.infer({name: whole})["landmarks"]
    assert np.array_equal(backend.infer({name: strided})["landmarks"], expected)


@pytest.mark.parametrize("suffix", ["param", "bin"])
def test_a_changed_byte_of_an_ncnn_artefact_is_found(targets_bundle, tmp_path, suffix):
    for file in targets_bundle.iterdir():
        (tmp_path / file.name).symlink_to(file)
    path = tmp_path / f"landmarks.ncnn.{suffix}"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)
    network = open_bundle(tmp_path).networks["landmarks"]
    with pytest.raises(BundleError, match="is not the file that was verified"):
        open_variant(network, network.variant("fp32", ("ncnn",)), Place())


@pytest.mark.parametrize(
    ("module", "backend"), [("ncnn", NCNN), ("openvino", "openvino"), ("onnxruntime", "onnxruntime")]
)
def test_a_backend_that_is_not_installed_names_its_package(targets_bundle, module, backend):
    program = (
        f"import sys; sys.modules[{module!r}] = None\nfrom fexruntime import Detector, FexportError\n"
        f"try: Detector(sys.argv[1], backend={backend!r})\nexcept FexportError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, targets_bundle], capture_output=True, encoding="utf-8", check=False
    )
    assert f"pip install '{module}>=" in done.stdout, done.stderr


def test_verify_says_which_artefacts_it_could_not_check(targets_bundle):
    program = (
        "import sys; sys.modules['ncnn'] = None; sys.modules['onnx'] = None\n"
        "from fexport.cli import main\nsys.argv = ['fexport', 'verify', sys.argv[1]]\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, targets_bundle], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    assert "artefacts not checked here: the backend 'ncnn' needs ncnn" in done.stdout
    assert "the recorded answers are reproduced" in done.stdout
    assert "(fp32 ncnn)" not in done.stdout


def test_no_backend_writes_anything_outside_the_cache(targets_bundle, photo, tmp_path):
    """Telemetry that is on by default: ONNX Runtime's database, OpenVINO's identity in the home."""
    home, cache = tmp_path / "home", tmp_path / "cache"
    home.mkdir()
    program = (
        "import sys, warnings; warnings.simplefilter('ignore')\nfrom fexruntime import Detector\n"
        f"for backend in ('onnxruntime', 'openvino', {NCNN!r}):\n"
        "    print(len(Detector(sys.argv[1], backend=backend).detect(sys.argv[2])))\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XDG", "ORT_"))}
    environment |= {"HOME": str(home), "FEXPORT_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", program, targets_bundle, photo],
        capture_output=True,
        encoding="utf-8",
        env=environment,
        check=False,
    )
    assert done.stdout.split() == ["1", "1", "1"], done.stderr
    assert list(home.rglob("*")) == []


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "ncnn"])
def test_outputs_that_are_not_named_are_left_out_and_the_others_stay(targets_bundle, backend):
    network = open_bundle(targets_bundle).networks["faces"]
    runner = open_backend(network, Place(backend))
    image = {"frames": np.random.RandomState(0).rand(1, 3, 96, 64).astype(np.float32)}
    whole = runner.infer(image)
    out = {name: np.empty_like(whole[name]) for name in ("loc", "conf")}
    assert runner.infer(image, out).keys() == out.keys()
    assert all(np.array_equal(out[name], whole[name]) for name in out)


def test_rows_do_without_the_detectors_points_and_results_have_them(targets_bundle, photo, monkeypatch):
    asked = []

    def heard(self, inputs, out=None, real=OnnxRuntime.infer):
        asked.append(None if out is None else set(out))
        return real(self, inputs, out)

    monkeypatch.setattr(OnnxRuntime, "infer", heard)
    detector = Detector(targets_bundle)
    fex = detector.detect(photo)
    assert {"loc", "conf"} in asked
    assert not any(names and "landmarks" in names for names in asked)
    asked.clear()
    (result,) = detector.stream(photo)
    assert {"loc", "conf", "landmarks"} in asked
    assert result.points_xy_px.shape == (1, 5, 2)
    (lean,) = detector.stream(photo, rows_only=True)
    assert lean.points_xy_px is None
    for results in ([result], [lean]):
        assert np.array_equal(detector.to_fex(results).values, fex.values, equal_nan=True)


def test_what_is_arrays_alone_runs_beside_networks_on_a_gpu():
    variant = SimpleNamespace(kind="arrays")
    network = SimpleNamespace(role="au", record=SimpleNamespace(variants=[variant]), variant=lambda *asked: variant)
    assert chosen(network, Place(backend="tensorrt", device="cuda")) == (Arrays, variant)
    with pytest.raises(EnvironmentMissingError, match="cannot be run on 'cuda' by the backend 'arrays'"):
        chosen(network, Place(backend="tensorrt", device={"au": "cuda"}))
