"""Publishing: in one step, under a lock, and nobody's file is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from fexport import build, plan, publish
from fexruntime import open_bundle
from fexruntime.errors import OutputError


def edge():
    return plan.plan("faces")


@pytest.fixture
def bundle(tmp_path):
    build.build(edge(), tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.mark.parametrize("exchange", [True, False])
def test_a_file_put_into_the_old_bundle_meanwhile_is_in_the_new_one(bundle, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(publish, "_exchange", lambda one, other: False)

    def meanwhile(role, step):
        (bundle / "my_results.csv").write_text("mine", encoding="utf-8")

    before = bundle.stat().st_ino
    build.build(edge(), bundle, meanwhile)
    assert bundle.stat().st_ino != before
    assert (bundle / "my_results.csv").read_text(encoding="utf-8") == "mine"
    assert open_bundle(bundle).verify_files() == 4
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]


def test_a_file_whose_name_the_new_bundle_uses_stays_with_the_old_one(bundle, monkeypatch):
    (bundle / "verification.json").unlink()
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    manifest["verification"]["file"] = "report.json"
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")

    def meanwhile(role, step):
        (bundle / "verification.json").write_text("mine", encoding="utf-8")

    build.build(edge(), bundle, meanwhile)
    assert (bundle.parent / ".bundle.old" / "verification.json").read_text(encoding="utf-8") == "mine"
    assert open_bundle(bundle).verify_files() == 4


def test_there_is_a_bundle_at_every_moment(bundle, monkeypatch):
    """The exchange is one step: whoever looks finds the old bundle or the new one."""
    seen = []
    real = publish._exchange

    def watched(one, other):
        seen.append(open_bundle(other).verify_files())
        done = real(one, other)
        seen.append(open_bundle(other).verify_files())
        return done

    monkeypatch.setattr(publish, "_exchange", watched)
    build.build(edge(), bundle)
    assert seen == [4, 4]


def test_a_bundle_put_aside_by_a_build_that_was_killed_comes_back(bundle):
    bundle.rename(bundle.parent / ".bundle.old")
    with pytest.raises(KeyboardInterrupt):
        build.build(edge(), bundle, lambda role, step: (_ for _ in ()).throw(KeyboardInterrupt))
    assert open_bundle(bundle).verify_files() == 4


def test_two_builds_of_one_target_the_second_says_who_is_building(tmp_path):
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom fexport.publish import staging_for\n"
        "with staging_for(Path(sys.argv[1])) as staging:\n    print(staging, flush=True); time.sleep(120)\n"
    )
    start = [sys.executable, "-c", program, tmp_path / "bundle"]
    with subprocess.Popen(start, stdout=subprocess.PIPE, encoding="utf-8") as first:
        staging = first.stdout.readline().strip()
        with pytest.raises(OutputError, match=rf"process {first.pid} on .* is building .*just now"):
            build.build(edge(), tmp_path / "bundle")
        assert os.path.isdir(staging)  # the other's work is untouched
        first.kill()
        first.wait()
    build.build(edge(), tmp_path / "bundle")  # a dead builder holds nothing
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.slow
def test_two_builds_started_together_leave_one_whole_bundle(tmp_path):
    start = [sys.executable, "-m", "fexport", "build", tmp_path / "bundle", "--pipeline", "faces", "--force"]
    for offset in (0.0, 0.7):
        first = subprocess.Popen(start, stderr=subprocess.PIPE, encoding="utf-8")
        time.sleep(offset)
        second = subprocess.run(start, stderr=subprocess.PIPE, encoding="utf-8", check=False)
        _, said = first.communicate()
        codes = {first.returncode, second.returncode}
        assert 0 in codes, said + second.stderr
        if 1 in codes:
            assert "is building" in (said + second.stderr)
            assert "Traceback" not in said + second.stderr
        assert open_bundle(tmp_path / "bundle").verify_files() == 4
        assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("manifest", [{"format": 1}, {"format": 99}, {"format": 2, "networks": 3}])
def test_a_bundle_of_another_format_or_damaged_is_made_again_in_its_place(bundle, manifest):
    """The advice "make it again with fexport build" has to work on that folder."""
    whole = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    if manifest["format"] == 1:  # as fexport 0.1 wrote it
        record = whole["networks"]["faces"]
        files = {"model": {"file": "faces.onnx"}, "canonical": {"file": "faces.canonical.npz"}}
        manifest = whole | {"format": 1, "networks": {"faces": record | files | {"variants": []}}}
    else:
        manifest = whole | manifest
    if manifest["networks"] == 3:
        (bundle / "faces.onnx").unlink()
        (bundle / "faces.canonical.npz").unlink()
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    build.build(edge(), bundle)
    assert open_bundle(bundle).verify_files() == 4


def test_a_link_to_a_bundle_stays_one(bundle):
    link = bundle.parent / "current"
    link.symlink_to("bundle")
    build.build(edge(), link)
    assert link.is_symlink()
    assert open_bundle(link).verify_files() == 4


def test_onto_a_mount_point_files_are_moved_and_nothing_else_is_lost(tmp_path, monkeypatch):
    """A container's volume cannot be renamed; a stand-in for one, where mounting is not allowed."""
    from pathlib import Path

    volume = tmp_path / "volume"
    volume.mkdir()
    real = Path.is_mount
    monkeypatch.setattr(Path, "is_mount", lambda self: self == volume or real(self))
    rename = Path.rename

    def busy(self, to):
        if volume in (self, Path(to)):
            raise OSError(16, "Device or resource busy")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", busy)
    build.build(edge(), volume)
    assert open_bundle(volume).verify_files() == 4
    build.build(edge(), volume)
    assert open_bundle(volume).verify_files() == 4
    assert len(list(volume.iterdir())) == 5
    (volume / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match=r"other things in it \(mine\.txt\)"):
        build.build(edge(), volume)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root: a real mount point was not tried")
def test_onto_a_real_mount_point(tmp_path):
    volume = tmp_path / "volume"
    volume.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", volume], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let root mount: a real mount point was not tried")
    try:
        build.build(edge(), volume)
        assert open_bundle(volume).verify_files() == 4
    finally:
        subprocess.run(["umount", volume], check=True)


def test_a_build_that_starts_while_another_drops_the_old_bundle_is_told_so(bundle, monkeypatch):
    """After the exchange the old bundle has the staging folder's name: it is still held."""
    real, said = publish._drop_old, []

    def meanwhile(old, out):
        with pytest.raises(OutputError, match="just now") as error, publish.staging_for(out):
            pass
        said.append(str(error.value))
        real(old, out)

    monkeypatch.setattr(publish, "_drop_old", meanwhile)
    build.build(edge(), bundle)
    assert len(said) == 1
    assert open_bundle(bundle).verify_files() == 4
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]


def test_somebodys_file_survives_a_build_that_was_killed_after_the_exchange(bundle, monkeypatch):
    def killed(old, out):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publish, "_drop_old", killed)
        with pytest.raises(KeyboardInterrupt):
            build.build(
                edge(), bundle, lambda role, step: (bundle / "my_results.csv").write_text("mine", encoding="utf-8")
            )
    assert (bundle.parent / ".bundle.partial" / "my_results.csv").is_file()
    assert not (bundle / "my_results.csv").exists()
    with publish.staging_for(bundle):
        pass
    assert (bundle / "my_results.csv").read_text(encoding="utf-8") == "mine"


def test_a_bundle_whose_manifest_is_no_json_is_made_again_and_a_site_is_not(bundle, tmp_path):
    (bundle / "manifest.json").write_text("{", encoding="utf-8")
    build.build(edge(), bundle)
    assert open_bundle(bundle).verify_files() == 4
    (bundle / "manifest.json").write_text("{", encoding="utf-8")
    (bundle / "index.html").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match=r"index\.html"):
        build.build(edge(), bundle)


def test_names_in_a_manifest_that_leave_the_folder_are_nobodys(bundle):
    precious = bundle.parent / "precious"
    precious.write_text("mine", encoding="utf-8")
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    manifest["networks"]["faces"]["variants"][0]["model"]["file"] = "../precious"
    assert "../precious" not in publish._names_of(manifest)


def test_a_mount_point_in_which_a_build_was_killed_can_be_built_into(tmp_path, monkeypatch):
    from pathlib import Path

    volume = tmp_path / "volume"
    volume.mkdir()
    real, replace = Path.is_mount, Path.replace
    monkeypatch.setattr(Path, "is_mount", lambda self: self == volume or real(self))
    build.build(edge(), volume)

    def killed(self, to):
        if self.name == "manifest.json" and Path(to).parent == volume:
            raise KeyboardInterrupt
        return replace(self, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            build.build(edge(), volume)
    assert not (volume / "manifest.json").exists()
    build.build(edge(), volume)
    assert open_bundle(volume).verify_files() == 4
    assert len(list(volume.iterdir())) == 5


def test_a_file_called_like_our_report_is_not_deleted(tmp_path):
    mine = tmp_path / "bundle.verification.json"
    for content in ('{"mine": 1}', '{"networks": {"a": {}}}', "[]", "text"):
        mine.write_text(content, encoding="utf-8")
        build.build(edge(), tmp_path / "bundle")
        assert mine.read_text(encoding="utf-8") == content
    mine.write_text('{"networks": {"faces": {"differences": []}}}', encoding="utf-8")
    build.build(edge(), tmp_path / "bundle")
    assert not mine.exists()


def test_a_build_that_fails_removes_what_it_wrote_and_nothing_else(bundle, monkeypatch):
    """An older bundle's file that could not be given back, since the new one has its name taken."""
    from fexport import sense
    from fexruntime.errors import VerificationError

    def fails(found):
        raise VerificationError("sees nonsense")

    staging = bundle.parent / ".bundle.partial"
    staging.mkdir()
    for folder in (staging, bundle):
        (folder / "my_results.csv").write_text(folder.name, encoding="utf-8")
    monkeypatch.setattr(sense, "check", fails)
    monkeypatch.setattr(build, "check_target", lambda out: None)
    with pytest.raises(VerificationError, match="nonsense"):
        build.build(edge(), bundle)
    assert [p.name for p in staging.iterdir()] == ["my_results.csv"]
    assert open_bundle(bundle).verify_files() == 4
