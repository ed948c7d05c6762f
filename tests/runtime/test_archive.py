"""A bundle as one archive: the same bytes for the same bundle, and an import that writes nothing but what the manifest names."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile

import pytest
from command import fexport, refused

from fexruntime import Detector
from fexruntime.archive import export_bundle, import_bundle
from fexruntime.bundle import open_bundle
from fexruntime.errors import BundleError, InputError, OutputError


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "edge.tar"
    export_bundle(open_bundle("edge"), path)
    return path


def members_of(path):
    with tarfile.open(path) as tar:
        return [(m, tar.extractfile(m).read()) for m in tar.getmembers()]


def written(path, members):
    with tarfile.open(path, "w") as tar:
        for member, data in members:
            member.size = len(data) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(data))
    return path


def test_there_and_back(tmp_path, archive, frame):
    export_bundle(open_bundle("edge"), tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()
    found = import_bundle(archive, tmp_path / "deep" / "bundle")
    assert found.verify_files() == len(found.manifest.files)
    assert stat.S_IMODE((tmp_path / "deep" / "bundle").stat().st_mode) & 0o500 == 0o500
    assert (Detector(found.path).detect(frame).values == Detector().detect(frame).values).all()
    assert os.listdir(tmp_path / "deep") == ["bundle"]


def test_a_read_only_bundle_runs_and_is_exported(tmp_path, archive, frame):
    folder = import_bundle(archive, tmp_path / "bundle").path
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    try:
        assert len(Detector(folder).detect(frame)) == 1
        export_bundle(open_bundle(folder), tmp_path / "x.tar")
        assert (tmp_path / "x.tar").read_bytes() == archive.read_bytes()
    finally:
        folder.chmod(0o755)


def entry(name, data=b"x", kind=tarfile.REGTYPE, link=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member, data if kind == tarfile.REGTYPE else b""


EXTRA = {
    "a file outside": entry("../evil"),
    "an absolute file": entry("/tmp/fexport-evil"),
    "a file that is not named": entry("extra.txt"),
    "a symlink": entry("faces.onnx", kind=tarfile.SYMTYPE, link="/etc/passwd"),
    "a hard link": entry("other", kind=tarfile.LNKTYPE, link="manifest.json"),
    "a device": entry("null", kind=tarfile.CHRTYPE),
    "a fifo": entry("pipe", kind=tarfile.FIFOTYPE),
    "a folder": entry("folder", kind=tarfile.DIRTYPE),
    "a second manifest": entry("manifest.json"),
}


@pytest.mark.parametrize("what", EXTRA)
@pytest.mark.parametrize("at", [1, 99])
def test_members_that_the_manifest_does_not_name_are_refused(tmp_path, archive, what, at):
    members = members_of(archive)
    members.insert(at, EXTRA[what])
    with pytest.raises(BundleError, match="which is not a file that its manifest names once"):
        import_bundle(written(tmp_path / "bad.tar", members), tmp_path / "in" / "bundle")
    assert not (tmp_path / "in").exists() or os.listdir(tmp_path / "in") == []
    assert not (tmp_path / "evil").exists()


def test_changed_missing_and_repeated_members_are_refused(tmp_path, archive):
    members = members_of(archive)
    big = max(range(len(members)), key=lambda k: len(members[k][1]))

    def bad(name, change):
        mine = [(m, d) for m, d in members_of(archive)]
        change(mine)
        return written(tmp_path / name, mine)

    def flip(mine):
        data = bytearray(mine[big][1])
        data[100] ^= 1
        mine[big] = (mine[big][0], bytes(data))

    cases = {
        "sha256 differs": flip,
        "its manifest says": lambda mine: mine.__setitem__(big, (mine[big][0], mine[big][1] + b"x")),
        "it is not whole": lambda mine: mine.pop(),
        "names once": lambda mine: mine.append(mine[1]),
        "does not begin with manifest.json": lambda mine: mine.pop(0),
    }
    for number, (says, change) in enumerate(cases.items()):
        with pytest.raises(BundleError, match=says):
            import_bundle(bad(f"{number}.tar", change), tmp_path / "bundle")
        assert not (tmp_path / "bundle").exists()


def test_a_manifest_that_points_outside_is_refused(tmp_path, archive):
    for path in ("../evil", "/tmp/evil", "a/../../evil"):
        members = members_of(archive)
        value = json.loads(members[0][1])
        value["notices"]["file"] = path
        members[0] = (members[0][0], json.dumps(value).encode())
        with pytest.raises(BundleError, match="outside the bundle"):
            import_bundle(written(tmp_path / "bad.tar", members), tmp_path / "bundle")


@pytest.mark.parametrize("keep", [0, 100, 600, 5000, 100_000])
def test_a_truncated_archive_leaves_nothing(tmp_path, archive, keep):
    (tmp_path / "cut.tar").write_bytes(archive.read_bytes()[:keep])
    with pytest.raises(BundleError):
        import_bundle(tmp_path / "cut.tar", tmp_path / "bundle")
    assert os.listdir(tmp_path) == ["cut.tar"]


def test_targets_that_cannot_be(tmp_path, archive):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(OutputError, match="it is there already"):
        import_bundle(archive, tmp_path / "full")
    with pytest.raises(InputError, match=r"NAME\.tar"):
        export_bundle(open_bundle("edge"), tmp_path / "x.zip")
    (tmp_path / "empty").mkdir()
    assert import_bundle(archive, tmp_path / "empty").pipeline.name == "faces"


def test_the_commands(tmp_path):
    assert fexport("bundle", "export", "edge", tmp_path / "e.tar").returncode == 0
    done = fexport("bundle", "import", tmp_path / "e.tar", tmp_path / "b")
    assert done.returncode == 0, done.stderr
    assert "whole" in done.stdout
    refused(fexport("bundle", "import", tmp_path / "missing.tar", tmp_path / "c"), "missing.tar", "No such file")
    refused(fexport("inspect", "edge", "--sbom", "--json"), "exclude each other")


@pytest.mark.parametrize("name", ["edge", "facemesh"])
def test_the_list_of_contents_names_every_file_weight_and_licence(name):
    done = fexport("inspect", name, "--sbom")
    assert done.returncode == 0, done.stderr
    said, bundle = json.loads(done.stdout), open_bundle(name)
    assert (said["bomFormat"], said["specVersion"]) == ("CycloneDX", "1.6")
    refs = [c["bom-ref"] for c in said["components"]]
    assert len(refs) == len(set(refs))
    digests = {c["name"]: c["hashes"][0]["content"] for c in said["components"] if c["type"] == "file"}
    assert digests == {f.file: f.sha256 for f in bundle.manifest.files}
    weights = {c["name"] for c in said["components"] if c["type"] == "data"}
    assert weights == {w.filename for n in bundle.networks.values() for w in n.record.weights}
    models = [c for c in said["components"] if c["type"] == "machine-learning-model"]
    assert {c["licenses"][0]["license"]["name"] for c in models} == {n.record.licence for n in bundle.networks.values()}
    assert {r for d in said["dependencies"] for r in d["dependsOn"]} <= set(refs)
    assert said["serialNumber"] == json.loads(fexport("inspect", name, "--sbom").stdout)["serialNumber"]
