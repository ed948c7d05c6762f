"""Would Winograd convolutions, written as matrix products in the graph, beat direct ones? For each map size of the networks.

F(m x m, 3 x 3) (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015) in NHWC: two products with a matrix of
the map's size transform the input, (m+2)² products with the transformed weights do the work, two more transform
back. Several 3x3 convolutions with ReLU in a row, against ONNX Runtime's direct ones.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

MAPS = ((256, 14, 14), (128, 28, 28), (64, 56, 56), (512, 7, 7), (256, 30, 40), (512, 15, 20), (128, 60, 80))
"""Channels, height, width: ArcFace's maps, then the detector's at 640x480."""
LAYERS = 4

F2 = (
    [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
    [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
    [[1, 1, 1, 0], [0, 1, -1, -1]],
)
F4 = (
    [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0],
     [0, 4, 0, -5, 0, 1]],
    [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6],
     [0, 0, 1]],
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
)  # fmt: skip
KINDS = {"direct": None, "F(2x2,3x3)": F2, "F(4x4,3x3)": F4}


def spatial(transforms, size: int):
    """Input and output transforms of a whole axis: [n*tiles, size] and [size, n*tiles], tiles innermost."""
    into, _, back = (np.array(t, float) for t in transforms)
    m, n = back.shape
    tiles = -(-size // m)
    forward, backward = np.zeros((n, tiles, size)), np.zeros((size, n, tiles))
    for t in range(tiles):
        for r in range(n):
            for j in range(n):
                if 0 <= t * m - 1 + j < size:
                    forward[r, t, t * m - 1 + j] += into[r, j]
            for i in range(min(m, size - t * m)):
                backward[t * m + i, r, t] += back[i, r]
    return forward.reshape(-1, size), backward.reshape(size, -1), tiles, n


def model(transforms, channels: int, height: int, width: int) -> bytes:
    """LAYERS convolutions with ReLU: NCHW if direct, else NHWC."""
    rng = np.random.RandomState(0)
    constants, nodes, at = {}, [], "x"
    if transforms is not None:
        constants["Bv"], constants["Av"], rows, n = spatial(transforms, height)
        constants["Bw"], constants["Aw"], columns, _ = spatial(transforms, width)
        gain = np.array(transforms[1], float)
        shapes = ([-1, height, width * channels], [-1, n * rows, width, channels], [-1, n, rows, n, columns * channels],
                  [n * n, -1, channels], [n, n, -1, rows, columns * channels], [-1, n * rows, n * columns, channels],
                  [-1, n * rows, width * channels], [-1, height, width, channels])  # fmt: skip
        constants |= {f"s{k}": np.array(s, np.int64) for k, s in enumerate(shapes)}
    for layer in range(LAYERS):
        weight = rng.randn(channels, channels, 3, 3) * 1.4 / np.sqrt(9 * channels)
        bias, out = f"bias{layer}", f"y{layer}"
        constants[bias] = rng.randn(channels) * 0.1
        if transforms is None:
            constants[f"w{layer}"] = weight
            nodes.append(helper.make_node("Conv", [at, f"w{layer}", bias], [f"c{layer}"], pads=[1, 1, 1, 1]))
        else:
            constants[f"w{layer}"] = np.einsum("ri,ocij,sj->rsco", gain, weight, gain).reshape(-1, channels, channels)
            steps = (("Reshape", "s0"), ("MatMul", "Bv"), ("Reshape", "s1"), ("MatMul", "Bw"), ("Reshape", "s2"), ("Transpose", [1, 3, 0, 2, 4]),
                     ("Reshape", "s3"), ("MatMul", f"w{layer}"), ("Reshape", "s4"), ("Transpose", [2, 0, 3, 1, 4]), ("Reshape", "s5"),
                     ("MatMul", "Aw"), ("Reshape", "s6"), ("MatMul", "Av"), ("Reshape", "s7"))  # fmt: skip
            for k, (kind, what) in enumerate(steps):
                name = f"t{layer}_{k}"
                if kind == "Transpose":
                    nodes.append(helper.make_node(kind, [at], [name], perm=what))
                else:
                    inputs = [what, at] if kind == "MatMul" and what[0] in "AB" else [at, what]
                    nodes.append(helper.make_node(kind, inputs, [name]))
                at = name
            nodes.append(helper.make_node("Add", [at, bias], [f"c{layer}"]))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [out]))
        at = out
    shape = ["n", channels, height, width] if transforms is None else ["n", height, width, channels]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in (("x", shape), (at, None))]
    stored = [
        numpy_helper.from_array(np.ascontiguousarray(v if v.dtype == np.int64 else v.astype(np.float32)), k)
        for k, v in constants.items()
    ]
    graph = helper.make_graph(nodes, "probe", tensors[:1], tensors[1:], stored)
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return whole.SerializeToString()


def main() -> None:
    """Measure every map and keep the samples (ms a convolution) and the largest difference from direct."""
    found = []
    for channels, height, width in MAPS:
        value = np.random.RandomState(1).randn(1, channels, height, width).astype(np.float32)
        entry: dict = {"map": [channels, height, width], "threads": 2, "ms": {}, "difference_of_range": {}}
        for name, transforms in KINDS.items():
            options = ort.SessionOptions()
            options.intra_op_num_threads = 2
            options.log_severity_level = 3
            session = ort.InferenceSession(
                model(transforms, channels, height, width), options, providers=["CPUExecutionProvider"]
            )
            given = value if transforms is None else np.ascontiguousarray(value.transpose(0, 2, 3, 1))
            answer = session.run(None, {"x": given})[0]
            if transforms is None:
                direct = answer
            else:
                gap = np.abs(answer.transpose(0, 3, 1, 2) - direct).max() / np.ptp(direct)
                entry["difference_of_range"][name] = float(gap)
            samples = []
            for _ in range(20):
                start = time.perf_counter()
                session.run(None, {"x": given})
                samples.append((time.perf_counter() - start) * 1e3 / LAYERS)
            entry["ms"][name] = samples
        print(entry["map"], {k: round(float(np.median(v)), 2) for k, v in entry["ms"].items()}, flush=True)
        found.append(entry)
    (Path(__file__).parent / "results" / "winograd.json").write_text(
        json.dumps(found, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    click.command()(main)()
