from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from fexruntime.errors import OutputError
from fexruntime.files import holding, replacing


def write(path, text):
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    target = tmp_path / "rows.csv"
    target.write_text("private", encoding="utf-8")
    target.chmod(0o600)
    write(target, "more")
    assert target.read_text(encoding="utf-8") == "more"
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_new_file_follows_the_umask_which_nobody_changes(tmp_path, monkeypatch):
    def never(mask):
        raise AssertionError("the umask belongs to the whole process")

    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", never)
            write(tmp_path / "new.csv", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "new.csv").stat().st_mode & 0o777 == 0o640


def test_files_of_other_threads_are_not_opened_to_all_meanwhile(tmp_path):
    before = os.umask(0o077)
    stop = threading.Event()
    open_to_all = []

    def other():
        k = 0
        while not stop.is_set():
            path = tmp_path / f"other{k % 50}"
            path.unlink(missing_ok=True)
            path.write_text("secret", encoding="utf-8")
            if path.stat().st_mode & 0o077:
                open_to_all.append(path)
            k += 1

    thread = threading.Thread(target=other)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        for _ in range(500):
            write(tmp_path / "rows.csv", "x")
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(switch)
        os.umask(before)
    assert not open_to_all


def test_a_link_stays_one_and_its_target_is_replaced(tmp_path):
    (tmp_path / "real.csv").write_text("old", encoding="utf-8")
    (tmp_path / "link.csv").symlink_to("real.csv")
    write(tmp_path / "link.csv", "new")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text(encoding="utf-8") == "new"


def test_a_name_as_long_as_names_can_be(tmp_path):
    name = "写" * 83 + ".csv"  # 253 bytes
    write(tmp_path / name, "x")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_target_that_cannot_be_renamed_onto_is_written_in_place(tmp_path, monkeypatch):
    """A single file that a container was given is a mount point: the system says that it is busy."""
    from pathlib import Path

    target = tmp_path / "rows.csv"
    target.write_text("old", encoding="utf-8")
    inode = target.stat().st_ino

    def busy(self, to):
        raise OSError(16, "Device or resource busy", str(to))

    monkeypatch.setattr(Path, "replace", busy)
    write(target, "new")
    assert target.read_text(encoding="utf-8") == "new"
    assert target.stat().st_ino == inode
    assert [p.name for p in tmp_path.iterdir()] == ["rows.csv"]
    with pytest.raises(OutputError, match="busy"):  # nothing there to write into
        write(tmp_path / "new.csv", "x")


def test_a_folder_is_held_by_one_and_let_go_when_its_holder_dies(tmp_path):
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom fexruntime.files import holding\n"
        "with holding(Path(sys.argv[1])) as held:\n    print(held, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, encoding="utf-8") as other:
        assert other.stdout.readline() == "True\n"
        with holding(tmp_path) as held:
            assert not held
        other.kill()
        other.wait()
    with holding(tmp_path) as held:
        assert held
        with holding(tmp_path) as twice:
            assert not twice
