from __future__ import annotations

import json
import shutil

import pytest

from fexruntime import Detector, open_bundle
from fexruntime.bundle import edge_bundle_path
from fexruntime.canonical import check_canonical
from fexruntime.errors import BundleError


@pytest.fixture
def bundle(tmp_path):
    shutil.copytree(edge_bundle_path(), tmp_path / "bundle")
    return tmp_path / "bundle"


def change_manifest(bundle, change):
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_the_packaged_bundle_is_small_and_whole():
    bundle = open_bundle("edge")
    assert sum(p.stat().st_size for p in edge_bundle_path().iterdir()) < 2_000_000
    assert bundle.verify_files() == 4
    assert bundle.stand_ins == []
    assert all(check.passed and check.max < 1e-5 for check in check_canonical(bundle))


@pytest.mark.parametrize("name", ["faces.onnx", "faces.canonical.npz", "verification.json", "NOTICES.md"])
def test_a_changed_byte_is_found(bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name}.*is not the file that was verified"):
        open_bundle(bundle).verify_files()
    if name.endswith("onnx"):
        with pytest.raises(BundleError, match="is not the file that was verified"):
            Detector(bundle)


def test_a_missing_file_is_named(bundle):
    (bundle / "faces.onnx").unlink()
    with pytest.raises(BundleError, match=r"faces\.onnx"):
        Detector(bundle)


@pytest.mark.parametrize("path", ["../faces.onnx", "/etc/hostname", "a/../../x"])
def test_a_path_that_leaves_the_bundle_is_refused(bundle, path):
    change_manifest(bundle, lambda m: m["networks"]["faces"]["model"].update(file=path))
    with pytest.raises(BundleError, match="outside the bundle"):
        open_bundle(bundle)


def test_a_link_that_leaves_the_bundle_is_refused(bundle, tmp_path):
    shutil.move(bundle / "faces.onnx", tmp_path / "elsewhere.onnx")
    (bundle / "faces.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match="outside the bundle"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(format=99), "format 99"),
        (lambda m: m.update(contract="pyfeat-9"), "no pipeline"),
        (lambda m: m.pop("networks"), "networks"),
        (lambda m: m["networks"].clear(), "no network for faces"),
        (lambda m: m["networks"]["faces"].update(network="resnet"), "no network 'resnet'"),
        (lambda m: m["networks"]["faces"].pop("weights"), "weights"),
        (lambda m: m["networks"]["faces"].update(inputs=[]), "is damaged"),
        (lambda m: m["networks"]["faces"]["model"].update(bytes="x"), "is damaged"),
        (lambda m: m["networks"]["faces"]["model"].update(file="a\0b"), "is damaged"),
        (lambda m: m["networks"]["faces"]["weights"][0].update(source="mail"), "is damaged"),
        (lambda m: m["verification"].update(file="../x"), "outside the bundle"),
    ],
)
def test_damaged_manifests(bundle, change, says):
    change_manifest(bundle, change)
    with pytest.raises(BundleError, match=says):
        open_bundle(bundle)


def test_no_bundle_there(tmp_path):
    with pytest.raises(BundleError, match="fexport build"):
        open_bundle(tmp_path / "nothing")
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        open_bundle(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="cannot read"):
        open_bundle(tmp_path)
