"""The store of what a device makes: private, keyed, judged, bounded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from fexruntime import Detector
from fexruntime.files import file_sha256
from fexruntime.memory import BLOCK, write_to_map
from fexruntime.store import Store, default_folder, open_store

KEY = {"kind": "test", "network": "n", "model_sha256": "0" * 64}


def keep(store, key, data):
    with store.writing(key) as path:
        path.write_bytes(data)


def test_what_was_kept_is_found_by_its_whole_key(tmp_path):
    store = Store(tmp_path / "store")
    assert store.find(KEY) is None
    keep(store, KEY, b"made")
    assert store.find(KEY).read_bytes() == b"made"
    assert store.find(KEY | {"onnxruntime": "1.0"}) is None
    (item,) = store.items()
    assert item.key == KEY
    assert item.size_bytes == 4
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("size", [0, 1, BLOCK, 3 * BLOCK + 17])
def test_a_file_that_will_be_mapped_is_written_in_small_pieces_and_whole(tmp_path, size, monkeypatch):
    """Also where the system takes less at a time than it was given."""
    data = np.random.RandomState(0).bytes(size)
    write_to_map(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == data
    written = []

    class Slow:
        def __init__(self, file):
            self._file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._file.close()

        def write(self, part):
            written.append(len(part))
            return self._file.write(part[: max(1, len(part) // 2)])

    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda path, mode, buffering: Slow(opened(path, mode, buffering)))
    write_to_map(tmp_path / "slow", memoryview(data))
    monkeypatch.undo()
    assert (tmp_path / "slow").read_bytes() == data
    assert all(0 < count <= BLOCK for count in written)


@pytest.mark.parametrize("change", [{"key": {"kind": "other"}}, {"sha256": "0" * 64}, {"key": None}])
def test_a_note_that_says_something_else_is_not_believed(tmp_path, change):
    store = Store(tmp_path)
    keep(store, KEY, b"made")
    (note,) = tmp_path.glob("*.json")
    note.write_text(json.dumps(json.loads(note.read_text(encoding="utf-8")) | change), encoding="utf-8")
    assert store.find(KEY) is None


def test_a_folder_that_others_may_write_to_is_no_store(tmp_path, photo):
    """Whoever can write a graph can write its note: there is no telling a planted one."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(PermissionError, match="others may write"):
        Store(shared)
    assert open_store(shared) is None
    assert len(Detector(cache=shared).detect(photo)) == 1
    assert list(shared.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away: not checked that another's is refused")
def test_a_folder_of_another_user_is_no_store(tmp_path):
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(PermissionError, match="another user"):
        Store(tmp_path)


def test_a_user_without_a_home_has_no_store_and_an_empty_variable_is_unset(monkeypatch, tmp_path):
    from pathlib import Path

    def no_home():
        raise RuntimeError("no home")

    monkeypatch.setenv("FEXPORT_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg" / "fexport"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for nothing in ("", "xdg"):  # a relative one counts as none: no folder is made where somebody happens to be
        monkeypatch.setenv("XDG_CACHE_HOME", nothing)
        assert default_folder() == tmp_path / "home" / ".cache" / "fexport"
    monkeypatch.setenv("FEXPORT_CACHE", "~/kept")  # of a file that no shell has read
    assert default_folder() == tmp_path / "home" / "kept"
    monkeypatch.delenv("FEXPORT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert default_folder() is None
    assert open_store(None) is None


def test_a_planted_graph_is_found_by_verify(tmp_path):
    """`fexport verify` runs what a detector would run: from the store, not round it."""
    from fexruntime import Place, open_bundle
    from fexruntime.canonical import check_canonical

    place = Place(cache=tmp_path)
    assert all(c.passed for c in check_canonical(open_bundle(), place))
    (graph,) = tmp_path.glob("*.bin")
    model = onnx.load_from_string(graph.read_bytes())
    biases = [t for t in model.graph.initializer if len(t.dims) == 1 and t.data_type == onnx.TensorProto.FLOAT]
    for bias in biases:
        values = onnx.numpy_helper.to_array(bias) + np.float32(0.5)
        bias.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), bias.name))
    graph.write_bytes(model.SerializeToString())
    note = graph.with_suffix(".json")
    note.write_text(
        json.dumps(json.loads(note.read_text(encoding="utf-8")) | {"sha256": file_sha256(graph)}), encoding="utf-8"
    )
    assert not all(c.passed for c in check_canonical(open_bundle(), place))


def test_it_is_bounded_and_what_was_not_used_for_longest_goes_first(tmp_path):
    store = Store(tmp_path, most_bytes=25)
    for k in range(3):
        keep(store, KEY | {"n": str(k)}, bytes(10))
        os.utime(next(i.note for i in store.items() if i.key["n"] == str(k)), (1000 + k, 1000 + k))
        if k == 1:
            store.find(KEY | {"n": "0"})  # used just now
    assert {i.key["n"] for i in store.items()} == {"0", "2"}


def test_clear_leaves_other_files_alone(tmp_path):
    store = Store(tmp_path)
    keep(store, KEY, b"12345")
    (tmp_path / "mine.json").write_text("{}", encoding="utf-8")
    (tmp_path / ("f" * 40 + ".bin")).write_bytes(b"half of an item")
    assert store.clear() == 5
    assert [p.name for p in tmp_path.iterdir()] == ["mine.json"]


def test_what_a_killed_writer_left_is_removed_and_a_living_one_is_left_alone(tmp_path):
    program = (
        "import os, sys, time\nfrom pathlib import Path\nfrom fexruntime.store import Store\n"
        "with Store(Path(sys.argv[1])).writing({'kind': 'slow'}) as path:\n"
        "    path.write_bytes(bytes(1000)); print('writing', flush=True)\n"
        "    time.sleep(60) if sys.argv[2] == 'live' else os._exit(9)\n"
    )
    start = [sys.executable, "-c", program, str(tmp_path)]
    subprocess.run([*start, "killed"], check=False, capture_output=True)
    with subprocess.Popen([*start, "live"], stdout=subprocess.PIPE, encoding="utf-8") as living:
        assert living.stdout.readline() == "writing\n"
        remains = list(tmp_path.glob(".writing-*"))
        assert len(remains) == 2
        for folder in remains:
            os.utime(folder, (time.time() - 3600,) * 2)
        keep(Store(tmp_path), KEY, b"made")
        assert len(list(tmp_path.glob(".writing-*"))) == 1
        living.kill()
    Store(tmp_path).clear()
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_written_is_read_all_the_same(tmp_path, monkeypatch):
    from pathlib import Path

    store = Store(tmp_path)
    keep(store, KEY, b"made")

    def read_only(self, *_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "touch", read_only)
    assert store.find(KEY).read_bytes() == b"made"


def test_the_default_folder_that_a_umask_left_open_is_emptied_and_closed(tmp_path, monkeypatch):
    monkeypatch.delenv("FEXPORT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store = open_store(None)
    keep(store, KEY, b"planted, for all we know")
    (tmp_path / "fexport").chmod(0o775)
    store = open_store(None)
    assert store.items() == []
    assert (tmp_path / "fexport").stat().st_mode & 0o777 == 0o700


def test_halves_of_items_are_removed(tmp_path):
    store = Store(tmp_path)
    for suffix, digit in ((".bin", "a"), (".json", "b")):
        path = tmp_path / (digit * 40 + suffix)
        path.write_bytes(b"half")
        os.utime(path, (time.time() - 3600,) * 2)
    keep(store, KEY, b"made")
    assert len(list(tmp_path.iterdir())) == 2
