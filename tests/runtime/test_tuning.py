"""The fastest backend is measured, not guessed: what `fexport tune` keeps, and what "auto" makes of it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from fexruntime import Detector, Place, open_bundle, tuning
from fexruntime.backends import open_variant
from fexruntime.errors import EnvironmentMissingError


@pytest.fixture(scope="module")
def kept_networks(targets_bundle, tmp_path_factory):
    """A store with every artefact as each backend keeps it: tuning loads them all, test after test."""
    store = tmp_path_factory.mktemp("kept")
    for network in open_bundle(targets_bundle).networks.values():
        for variant in network.record.variants:
            for name in variant.verified_on:
                for threads in (1, 2):
                    open_variant(network, variant, Place(name, threads=threads, cache=store)).close()
    return store


@pytest.fixture
def store(kept_networks, tmp_path):
    """A store of the test's own in which nobody has tuned."""
    return shutil.copytree(kept_networks, tmp_path / "store")


def test_tune_keeps_the_fastest_and_auto_uses_it(targets_bundle, store, monkeypatch):
    bundle, place = open_bundle(targets_bundle), Place(backend="auto", cache=store, threads=1)
    assert set(tuning.resolved(bundle, place).backend.values()) == {"onnxruntime"}  # nobody tuned yet
    _fake_speed(monkeypatch, {"ncnn": 1.0, "ncnn-f2x2": 3.0, "openvino": 2.0, "onnxruntime": 4.0, "arrays": 1.0})
    found = tuning.tune(bundle, place, tuning.Workload(64, 96, 2), rounds=5)
    chosen = {m.role: m.backend for m in found if m.chosen}
    assert chosen == {"faces": "ncnn", "landmarks": "ncnn", "pose": "openvino", "identity": "ncnn"}
    assert all(len(m.ms) == 5 for m in found)
    assert {m.backend for m in found if m.role == "pose"} == {"onnxruntime", "openvino"}
    assert {m.backend for m in found if m.role == "identity"} == {"onnxruntime", "openvino", "ncnn", "ncnn-f2x2"}
    assert tuning.resolved(bundle, place).backend == chosen
    detector = Detector(targets_bundle, place)
    assert {r: said["backend"] for r, said in detector.describe().items()} == chosen
    for other in (Place(backend="auto", cache=store, threads=2), Place(backend="auto", cache=False, threads=1)):
        assert set(tuning.resolved(bundle, other).backend.values()) == {"onnxruntime"}
    assert tuning.resolved(open_bundle(), place).backend == {"faces": "onnxruntime"}


def test_the_default_stays_unless_another_is_clearly_better(targets_bundle, store, monkeypatch):
    place = Place(cache=store, threads=1)
    _fake_speed(monkeypatch, {"ncnn": 0.99, "openvino": 0.98, "onnxruntime": 1.0})
    found = tuning.tune(open_bundle(targets_bundle), place, tuning.Workload(64, 96), rounds=5)
    assert {m.backend for m in found if m.chosen} == {"onnxruntime"}


def test_a_backend_that_is_not_here_does_not_compete(targets_bundle, store, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    said = []
    found = tuning.tune(
        open_bundle(targets_bundle),
        Place(cache=store, threads=1),
        tuning.Workload(64, 96),
        rounds=5,
        say=said.append,
    )
    assert "openvino" not in {m.backend for m in found}
    assert any("pip install 'openvino>=" in text for text in said)


def test_a_network_is_measured_behind_the_rest_of_the_frame(targets_bundle, store, monkeypatch):
    ran = []
    _fake_speed(monkeypatch, dict.fromkeys(("ncnn", "openvino", "onnxruntime"), 1.0), ran)
    tuning.tune(open_bundle(targets_bundle), Place(cache=store, threads=1), tuning.Workload(64, 96), rounds=5)
    roles = list(open_bundle(targets_bundle).networks)
    turns = [[role for role, _ in ran[k : k + len(roles)]] for k in range(0, len(ran), len(roles))]
    # a turn: the networks behind the one that is measured, those before it in the next frame, then itself
    assert turns[0] == [*roles[1:], roles[0]]
    assert turns[-1] == roles


def test_fewer_threads_are_chosen_where_they_are_faster_and_used(targets_bundle, store, monkeypatch):
    bundle, place = open_bundle(targets_bundle), Place(backend="auto", cache=store, threads=2)
    _fake_speed(monkeypatch, {"ncnn": 2.0, "openvino": 2.0, "onnxruntime": 1.0}, one_thread={"landmarks": 0.5})
    found = tuning.tune(bundle, place, tuning.Workload(64, 96), rounds=5)
    assert {m.role: m.threads for m in found if m.chosen} == {"faces": 2, "landmarks": 1, "pose": 2, "identity": 2}
    assert [m.threads for m in found if m.role == "landmarks"].count(1) == 1  # of the fastest backend alone
    with Detector(targets_bundle, place) as detector:
        said = {r: s["threads"] for r, s in detector.describe().items()}
    assert said == {"faces": 2, "landmarks": 1, "pose": 2, "identity": 2}
    shared = tuning.resolved(bundle, dataclasses.replace(place, shared_pool=True))  # as `fexport run` asks
    assert shared.threads == said
    assert not shared.shared_pool  # ONNX Runtime's one pool would have one number of threads


def test_noisy_rounds_are_thrown_away(targets_bundle, store, monkeypatch):
    place, spikes = Place(cache=store, threads=1), iter([1.0] * 40 + [50.0] + [1.0] * 9999)
    _fake_speed(monkeypatch, dict.fromkeys(("ncnn", "openvino", "onnxruntime"), lambda: next(spikes)))
    found = tuning.tune(open_bundle(targets_bundle), place, tuning.Workload(64, 96), rounds=7)
    assert all(max(m.ms) == pytest.approx(1000.0) for m in found)
    assert {m.noisy + len(m.ms) for m in found} == {7}


def test_without_a_store_tuning_says_so(targets_bundle):
    with pytest.raises(EnvironmentMissingError, match="no place to keep the choice"):
        tuning.tune(open_bundle(targets_bundle), Place(cache=False))


def _fake_speed(monkeypatch, seconds, ran=None, one_thread=None):
    """A clock that each backend's `infer` moves by a fixed time; `ran` collects (role, backend) of each run."""
    now = [0.0]
    real = _OPEN_VARIANT

    def timed(network, variant, place):
        backend = real(network, variant, place)
        infer, step = backend.infer, seconds.get(place.backend, 1.0)
        if place.threads_of(network.role) == 1 and network.role in (one_thread or {}):
            step = one_thread[network.role]

        def moved(inputs, out=None):
            now[0] += step() if callable(step) else step
            if ran is not None:
                ran.append((network.role, place.backend))
            return infer(inputs, out)

        monkeypatch.setattr(backend, "infer", moved, raising=False)
        return backend

    monkeypatch.setattr(tuning, "open_variant", timed)
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: now[0])


_OPEN_VARIANT = tuning.open_variant


def test_the_command_tunes_and_run_follows(targets_bundle, photo, store):
    environment = os.environ | {"FEXPORT_CACHE": str(store), "COLUMNS": "120"}

    def fexport(*arguments):
        command = [sys.executable, "-m", "fexport", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)

    done = fexport("tune", targets_bundle, "--size", "128x96", "--rounds", "5")
    assert done.returncode == 0, done.stderr
    (kept,) = (line for line in done.stdout.splitlines() if line.startswith("kept: faces="))
    choice = dict(re.findall(r"(\w+)=(\S+) \(\d threads?\)", kept))
    assert set(choice) == set(open_bundle(targets_bundle).networks)
    (note,) = (n for n in store.glob("*.json") if json.loads(n.read_text(encoding="utf-8"))["key"]["kind"] == "tuning")
    written = json.loads(note.with_suffix(".bin").read_text(encoding="utf-8"))
    assert {role: said["backend"] for role, said in written.items()} == choice
    done = fexport("-v", "run", targets_bundle, photo)
    for role, backend in choice.items():
        assert f"{role}: {backend} " in done.stderr
    assert "tuning" in fexport("cache").stdout
    done = fexport("run", targets_bundle, photo, "--backend", "faces=ncnn,identity=openvino")
    assert done.returncode == 0, done.stderr
    done = fexport("run", targets_bundle, photo, "--backend", "faces=")
    assert "neither a name nor ROLE=NAME" in done.stderr
