"""The life of TensorRT engines on four versions' API tables: build, keep, judge, load, run, close, with ONNX Runtime's numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from command import fexport, refused
from fex_compare import assert_same_rows
from tensorrt_standin import VERSIONS, HostMemory, standin

from fexport.tensorrt_build import EngineOptions, build_engine, timing_cache
from fexport.tensorrt_engines import make_with
from fexruntime import Detector
from fexruntime.backends.base import Place
from fexruntime.backends.tensorrt import TensorRT
from fexruntime.bundle import open_bundle
from fexruntime.contracts import Tensor
from fexruntime.driver import Gpu
from fexruntime.engines import find, judge, profiles_of, sizes_of
from fexruntime.errors import EnvironmentMissingError, InferenceError, InputError

GPU = Gpu("Orin", "8.7", "12.2")
SIZES = ((96, 128), (512, 512))
pytestmark = pytest.mark.filterwarnings("ignore::fexruntime.errors.StandInWarning")


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def here(monkeypatch, tmp_path):
    """A machine with a GPU: its driver, memory and cache."""
    monkeypatch.setenv("FEXPORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("fexruntime.backends.tensorrt.gpu", lambda index: GPU)
    monkeypatch.setattr(TensorRT, "memory", lambda self: HostMemory())
    monkeypatch.setattr(HostMemory, "open", 0)
    return tmp_path


def installed(monkeypatch, version, fails=None):
    trt, calls = standin(version, fails)
    monkeypatch.setattr("fexruntime.backends.tensorrt.import_tensorrt", lambda: trt)
    return trt, calls


def made(trt, options=None, if_needed=False, bundle=None, gpu=GPU, sizes=SIZES):
    return make_with(
        trt, gpu, bundle or open_bundle("edge"), options or EngineOptions(), sizes, if_needed, lambda text: None
    )


def test_a_whole_life(version, here, monkeypatch, frame):
    trt, calls = installed(monkeypatch, version)
    assert "fp32" in made(trt)["faces"]
    flags = next(c[1] for c in calls if c[0] == "create_network")
    assert flags == (["EXPLICIT_BATCH"] if version.startswith("8") else flags)
    assert ("STRONGLY_TYPED" in flags) == (not version.startswith("8"))
    assert ("clear_flag", "TF32") in calls
    assert ("set_memory_pool_limit", "WORKSPACE", 2048 << 20) in calls
    with Detector("edge", backend="tensorrt", device="cuda", workspaces=2) as detector:
        assert HostMemory.open == 2  # one a workspace
        described = detector.describe()["faces"]
        assert (described["backend"], described["version"], described["precision"]) == ("tensorrt", version, "fp32")
        loaded = len(calls)
        for picture in (frame, np.ascontiguousarray(frame[:96, :128]), frame):
            with Detector("edge") as plain:
                expected, found = plain.detect(picture), detector.detect(picture)
            for column in expected.columns:
                assert np.array_equal(
                    np.asarray(expected[column]),
                    np.asarray(found[column]),
                    equal_nan=expected[column].dtype.kind == "f",
                )
        assert [c for c in calls[loaded:] if c[0] == "create_execution_context"] == []
        assert [c for c in calls[loaded:] if c[0] == "set_tensor_address"] == []
        assert [c for c in calls[loaded:] if c[0] == "set_input_shape"] == []  # every bucket was warm
    assert HostMemory.open == 0


def test_a_whole_pipeline_answers_what_onnx_runtime_does(here, monkeypatch, frame, v1_edge_bundle):
    trt, _ = installed(monkeypatch, VERSIONS[0])
    bundle = open_bundle(v1_edge_bundle)
    said = made(trt, bundle=bundle)
    graphs = [r for r, n in bundle.networks.items() if any(v.kind == "onnx" for v in n.record.variants)]
    assert [r for r in said if "fp32" in said[r]] == graphs
    with Detector(bundle, backend="tensorrt", device="cuda") as detector, Detector(bundle) as plain:
        found, expected = detector.detect([frame, frame], batch_size=2), plain.detect([frame, frame], batch_size=2)
    assert len(expected) >= 2
    assert_same_rows(found, expected, atol=1e-4)


def test_a_frame_outside_every_profile_names_the_option(here, monkeypatch):
    trt, _ = installed(monkeypatch, VERSIONS[1])
    made(trt)
    with (
        Detector("edge", backend="tensorrt", device="cuda") as detector,
        pytest.raises(InputError, match="--profile 100x200"),
    ):
        detector.detect(np.zeros((100, 200, 3), np.uint8))


def test_without_an_engine_the_command_is_named(here, monkeypatch):
    _, calls = installed(monkeypatch, VERSIONS[0])
    with pytest.raises(EnvironmentMissingError, match=r"there is none.*fexport engines"):
        Detector("edge", backend="tensorrt", device="cuda")
    assert calls == []


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"version": VERSIONS[1]}, r"tensorrt '10.3.0', here '8.6.0'"),
        ({"gpu": replace(GPU, name="H100")}, r"gpu 'H100', here 'Orin'"),
        ({"gpu": replace(GPU, capability="9.0")}, r"capability '9.0', here '8.7'"),
        ({"gpu": replace(GPU, driver="13.0")}, r"driver '13.0', here '12.2'"),
    ],
)
def test_engines_of_another_place_are_judged_and_not_loaded(here, monkeypatch, other, says):
    made(standin(other.get("version", VERSIONS[0]))[0], gpu=other.get("gpu", GPU))
    _, calls = installed(monkeypatch, VERSIONS[0])
    with pytest.raises(EnvironmentMissingError, match=says + r".*fexport engines"):
        Detector("edge", backend="tensorrt", device="cuda")
    assert ("Runtime",) not in calls


def test_a_damaged_engine_is_not_loaded(here, monkeypatch):
    trt, calls = installed(monkeypatch, VERSIONS[0])
    made(trt)
    (item,) = [i for i in Place().store().items() if i.key["kind"] == "TensorRT engine"]
    item.path.write_bytes(item.path.read_bytes() + b"!")
    with pytest.raises(EnvironmentMissingError, match="its bytes are not those that were written"):
        Detector("edge", backend="tensorrt", device="cuda")
    assert ("Runtime",) not in calls


def test_a_note_is_judged_by_what_is_asked():
    note = {"tensorrt": "8.6.0", "gpu": "Orin", "profiles": "a"}
    assert judge(note, {"tensorrt": "8.6.0", "gpu": "Orin"}) == []
    assert judge(note, {"profiles": "b"}) == ["profiles 'a', here 'b'"]
    assert judge({}, {"gpu": "Orin"}) == ["gpu 'unknown', here 'Orin'"]


def test_if_needed_builds_what_is_not_there(here, version):
    trt, calls = standin(version)
    assert "fp32" in made(trt, if_needed=True)["faces"]
    builds = len(calls)
    assert "there already" in made(trt, if_needed=True)["faces"]
    assert len(calls) == builds
    assert "fp32" in made(trt, if_needed=True, sizes=((64, 64),))["faces"]
    assert "fp32" in made(trt)["faces"]


@pytest.mark.parametrize("fails", ["parse", "build"])
def test_what_tensorrt_said_last_is_in_the_message(here, version, fails):
    says = {
        "parse": "cannot read the graph: unsupported operator",
        "build": "could not build the engine: no tactic fits",
    }
    with pytest.raises(EnvironmentMissingError, match=says[fails]):
        made(standin(version, fails)[0])
    assert Place().store().items() == []


@pytest.mark.parametrize(
    ("fails", "error", "says"),
    [("deserialise", EnvironmentMissingError, "refuses"), ("run", InferenceError, "could not run")],
)
def test_an_engine_that_does_not_load_or_run(here, monkeypatch, version, fails, error, says):
    trt, _ = installed(monkeypatch, version, fails)
    made(trt)
    with pytest.raises(error, match=says):
        Detector("edge", backend="tensorrt", device="cuda")


def edge_graph():
    network = open_bundle("edge").networks["faces"]
    return network.read(network.record.variants[0].model), profiles_of(network.record.inputs, SIZES)


def test_options_reach_the_configuration(version):
    model, profiles = edge_graph()
    trt, calls = standin(version)
    options = EngineOptions(
        tf32=True, version_compatible=True, refit=True, hardware="ampere-plus", dla=0, workspace_mb=64
    )
    build_engine(trt, model, profiles, options)
    set_flags = {c[1] for c in calls if c[0] == "set_flag"}
    assert set_flags == {"TF32", "VERSION_COMPATIBLE", "REFIT", "GPU_FALLBACK"}
    sources = [c[1] for c in calls if c[0] == "sources"]
    assert sources == ([] if version.startswith("11") else [["EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"]])


def test_a_hardware_level_that_a_version_lacks_is_refused():
    model, profiles = edge_graph()
    with pytest.raises(InputError, match="has no hardware compatibility 'same-capability'"):
        build_engine(standin("8.6.0")[0], model, profiles, EngineOptions(hardware="same-capability"))


def test_half_precision_is_a_flag_where_types_are_weak(version, monkeypatch):
    import onnx

    model, profiles = edge_graph()
    graph = onnx.load_from_string(model)
    for k, node in enumerate(graph.graph.node):
        node.name = f"n{k}"
    trt, calls = standin(version)
    build_engine(trt, graph.SerializeToString(), profiles, EngineOptions("fp16", islands=("n0", "n3")))
    weak = version.startswith("8")
    flags = {c[1] for c in calls if c[0] == "set_flag"}
    assert flags == ({"FP16", "OBEY_PRECISION_CONSTRAINTS"} if weak else set())
    assert len([c for c in calls if c[0] == "set_output_type"]) == (2 if weak else 0)
    if weak:
        with pytest.raises(InputError, match="names nodes that no layer came from: gone"):
            build_engine(trt, graph.SerializeToString(), profiles, EngineOptions("fp16", islands=("gone",)))


def test_half_precision_without_a_plan_is_refused_where_it_is_a_flag(here):
    with pytest.raises(
        InputError, match=r"no fp16 graph for that here, with a plan of what stays fp32: .* --target tensorrt"
    ):
        made(standin("8.6.0")[0], EngineOptions("fp16"))


def test_progress_is_said_where_there_is_a_monitor(version):
    model, profiles = edge_graph()
    said = []
    build_engine(standin(version)[0], model, profiles, EngineOptions(), say=said.append)
    assert said == ([] if version.startswith("8") else ["Tactics"])


def test_timings_are_kept_and_another_machines_are_not_used(tmp_path, version):
    model, profiles = edge_graph()
    cache = timing_cache(tmp_path, version, GPU)
    trt, calls = standin(version)
    for _ in range(2):
        build_engine(trt, model, profiles, EngineOptions(), cache)
    assert [c[1] for c in calls if c[0] == "set_timing_cache"] == [b"", b"timed;"]
    cache.write_bytes(b"other")
    build_engine(trt, model, profiles, EngineOptions(), cache)
    assert cache.read_bytes() == b"timed;"
    assert timing_cache(tmp_path, version, replace(GPU, driver="13.0")) != cache


def test_profiles_come_from_the_row():
    frames = (Tensor("image", ("batch", 3, "height", "width"), ""),)
    chips = (Tensor("chips", ("batch", 3, 112, 112), ""),)
    assert [p.most["image"] for p in profiles_of(frames, SIZES)] == [(1, 3, 96, 128), (1, 3, 512, 512)]
    batches = profiles_of(chips)
    assert [(p.least["chips"][0], p.most["chips"][0]) for p in batches] == [(1, 1), (2, 4), (5, 16), (17, 64)]
    for items in range(1, 65):
        assert sum(p.holds({"chips": (items, 3, 112, 112)}) for p in batches) == 1
    assert not any(p.holds({"chips": (65, 3, 112, 112)}) for p in batches)


@pytest.mark.parametrize("text", ["720", "720x", "0x640", "720x99999", "axb"])
def test_a_profile_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="is not HEIGHTxWIDTH"):
        sizes_of([text])


@pytest.mark.parametrize("bad", [{"hardware": "all"}, {"precision": "fp64"}, {"level": 6}, {"workspace_mb": 0}])
def test_options_that_cannot_be(bad):
    with pytest.raises(InputError):
        EngineOptions(**bad)


def test_without_a_store_nothing_can_be_found():
    network = open_bundle("edge").networks["faces"]
    with pytest.raises(EnvironmentMissingError, match="fexport engines"):
        find(None, network, network.record.variants[0], "8.6.0", GPU)


def test_without_a_gpu_nothing_is_imported_and_the_message_says_so(monkeypatch):
    monkeypatch.setattr("fexruntime.driver.LIBRARY", "libcuda-that-is-not-there.so")
    with pytest.raises(EnvironmentMissingError, match="no NVIDIA driver here"):
        Detector("edge", backend="tensorrt", device="cuda")
    with pytest.raises(EnvironmentMissingError, match="by the backend 'tensorrt', which has cuda"):
        Detector("edge", backend="tensorrt")


def test_the_command_refuses_in_one_sentence():
    refused(fexport("engines", "edge", "--profile", "7x7"), "--profile '7x7' is not HEIGHTxWIDTH")


def test_what_the_lint_refused_gets_no_engine(here):
    bundle = open_bundle("edge")
    network = bundle.networks["faces"]
    held = replace(network, record=replace(network.record, not_held={"tensorrt": "opset: opset 18"}))
    said = made(standin(VERSIONS[0])[0], bundle=replace(bundle, networks={"faces": held}))
    assert "opset: opset 18" in said["faces"]
    assert Place().store().items() == []


def test_outputs_that_nobody_reads_are_not_copied(here, monkeypatch):
    trt, _ = installed(monkeypatch, VERSIONS[0])
    made(trt)
    network = open_bundle("edge").networks["faces"]
    runner = TensorRT(network, network.record.variants[0], Place(device="cuda"))
    image = np.random.RandomState(0).rand(3, 3, 96, 128).astype(np.float32)
    whole = runner.infer({runner.spec.inputs[0].name: image})
    first = runner.spec.outputs[0].name
    out = {first: np.full_like(whole[first], np.nan)}
    assert list(runner.infer({runner.spec.inputs[0].name: image}, out)) == [first]
    assert np.array_equal(out[first], whole[first])
    runner.close()
