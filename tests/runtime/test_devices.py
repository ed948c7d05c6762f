"""Networks on other devices than the CPU: the same numbers, or an error that says what is there; never the CPU instead."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from command import fexport
from conftest import GOLDENS
from fex_compare import assert_same_fex
from test_goldens import BOXES

from fexruntime import Detector, Place, open_bundle
from fexruntime.backends import open_backend
from fexruntime.backends.base import Device
from fexruntime.backends.openvino import device_name
from fexruntime.canonical import check_canonical
from fexruntime.errors import EnvironmentMissingError, InputError

ON_NCNN = {"faces": "ncnn", "landmarks": "ncnn", "identity": "ncnn"}
ON_VULKAN = dict.fromkeys(ON_NCNN, "vulkan")


@pytest.fixture(scope="module")
def vulkan():
    """Skips where no driver is; where FEXPORT_NEED_VULKAN is set (CI, which installs Mesa's), there must be one."""
    import ncnn

    from fexruntime.backends.ncnn import vulkan_devices

    devices = vulkan_devices(ncnn)
    if not devices and not os.environ.get("FEXPORT_NEED_VULKAN"):
        pytest.skip("no Vulkan driver is here (Mesa's does: apt-get install mesa-vulkan-drivers)")
    assert devices
    return devices


@pytest.mark.vulkan
def test_rows_are_pyfeats_on_vulkan(vulkan, targets_bundle, photo):
    with Detector(targets_bundle, backend=ON_NCNN, device=ON_VULKAN) as detector:
        said = detector.describe()
        fex = detector.detect(photo, boxes=BOXES)
    assert {role for role, d in said.items() if d["device"] == f"vulkan:0 {vulkan[0]}"} == set(ON_NCNN)
    assert {d["precision"] for d in said.values()} == {"fp32"}
    assert said["pose"]["device"] == "cpu"
    assert all(said[role]["layers_on_cpu"] == [] for role in ON_NCNN)
    assert_same_fex(fex, GOLDENS / "detectorv1_pyfeat215_boxes.csv")


@pytest.mark.vulkan
def test_faces_are_found_on_vulkan_as_on_the_cpu_and_it_is_vulkan_that_computes(vulkan, targets_bundle, photo):
    cpu = Detector(targets_bundle, backend={"faces": "ncnn"}).detect(photo)
    detector = Detector(targets_bundle, backend={"faces": "ncnn"}, device={"faces": "vulkan:0"}, workspaces=2)
    gpu = detector.detect(photo)
    assert len(cpu) == len(gpu) == 1
    for side in ("FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight"):
        assert np.allclose(cpu[side], gpu[side], atol=0.01)
    # other sums: had the CPU answered, the bits would be the same
    network = open_bundle(targets_bundle).networks["faces"]
    image = {"frames": np.random.RandomState(0).rand(1, 3, 96, 64).astype(np.float32)}
    places = [Place("ncnn", device) for device in ("cpu", "vulkan")]
    a, b = (open_backend(network, place).infer(image)["landmarks"] for place in places)
    assert np.abs(a - b).max() < 1e-3
    assert (a != b).any()


@pytest.mark.vulkan
def test_the_recorded_answers_are_reproduced_on_vulkan(vulkan, targets_bundle):
    missing = []
    checks = check_canonical(open_bundle(targets_bundle), Place("ncnn", ON_VULKAN), missing.append)
    assert {c.role for c in checks if c.artefact == "fp32 ncnn"} == set(ON_NCNN)
    assert all(c.passed for c in checks)
    assert any("for vulkan backend='ncnn'" in str(error) for error in missing)  # graphs of onnx stay unchecked there


@pytest.mark.vulkan
def test_a_device_number_that_is_not_there_lists_those_that_are(vulkan, targets_bundle):
    with pytest.raises(EnvironmentMissingError, match=r"no device 'vulkan:7' .* ncnn sees here: 0: ") as caught:
        Detector(targets_bundle, backend={"faces": "ncnn"}, device={"faces": "vulkan:7"})
    assert vulkan[0] in str(caught.value)


def test_without_a_driver_the_error_says_what_is_missing(targets_bundle, photo, tmp_path):
    nowhere = os.environ | {name: str(tmp_path / "none.json") for name in ("VK_ICD_FILENAMES", "VK_DRIVER_FILES")}
    program = (
        "import sys; from fexruntime import Detector;"
        "Detector(sys.argv[1], backend={'faces': 'ncnn'}, device={'faces': 'vulkan'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(targets_bundle)],
        env=nowhere,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 1
    assert "EnvironmentMissingError: no device 'vulkan' for retinaface-mobilenet025" in done.stderr
    assert "sees here: none (it needs a GPU's Vulkan driver" in done.stderr


def test_a_device_of_another_backend_is_an_error_that_names_it(targets_bundle):
    with pytest.raises(EnvironmentMissingError, match="for vulkan backend='ncnn'"):
        Detector(targets_bundle, device="vulkan")
    with pytest.raises(EnvironmentMissingError, match=r"onnxruntime', which has cpu: .* or for gpu backend='openvino'"):
        Detector(targets_bundle, device="gpu")
    with pytest.raises(InputError, match="device='vulkan:x' is not a kind and a number"):
        Detector(targets_bundle, backend={"faces": "ncnn"}, device={"faces": "vulkan:x"})
    with pytest.raises(InputError, match="device names mouth: this bundle has faces"):
        Detector(targets_bundle, device={"mouth": "vulkan"})


def test_openvinos_devices_are_those_that_it_sees(targets_bundle):
    import openvino

    for device in ("npu", "gpu:9"):
        with pytest.raises(EnvironmentMissingError, match=f"no device '{device}': OpenVINO sees CPU"):
            Detector(targets_bundle, backend={"faces": "openvino"}, device={"faces": device})
    assert "CPU" in openvino.Core().available_devices
    detector = Detector(targets_bundle, backend="openvino", device="cpu:0")
    assert {said["device"] for said in detector.describe().values()} == {"cpu:0"}


@pytest.mark.parametrize(
    ("asked", "seen", "found"),
    [
        (Device("gpu"), ["CPU", "GPU"], "GPU"),
        (Device("gpu", 0), ["CPU", "GPU"], "GPU"),
        (Device("gpu"), ["CPU", "GPU.0", "GPU.1"], "GPU.0"),
        (Device("gpu", 1), ["CPU", "GPU.0", "GPU.1"], "GPU.1"),
        (Device("npu"), ["CPU", "NPU"], "NPU"),
    ],
)
def test_openvinos_names_of_devices(asked, seen, found):
    assert device_name(asked, seen) == found


@pytest.mark.parametrize("asked", [Device("gpu", 1), Device("npu")])
def test_a_device_that_openvino_does_not_see_is_an_error(asked):
    with pytest.raises(EnvironmentMissingError, match=f"no device '{asked}': OpenVINO sees CPU, GPU here"):
        device_name(asked, ["CPU", "GPU"])


def test_the_command_takes_devices_by_role(targets_bundle, photo):
    done = fexport("run", targets_bundle, photo, "--backend", "faces=ncnn", "--device", "faces=vulkan:99")
    assert done.returncode != 0
    assert "no device 'vulkan:99'" in done.stderr
    done = fexport("verify", targets_bundle, "--device", "npu")
    assert done.returncode != 0
    assert "for npu --backend openvino" in done.stderr
