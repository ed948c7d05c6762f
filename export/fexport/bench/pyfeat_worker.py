"""Runs py-feat in py-feat's own environment, on request: standard library, torch and feat only; fexport is not there.

Started as a script with a JSON object as its argument (pipeline, weights, identity, models, threads, boxes, frame file, picture,
output_size). Answers one JSON line a request: {"do": "frame"} runs one whole detect; {"do": "network", "name": …} runs one network on random input;
{"do": "table", "inputs": […], "out": FILE} writes the rows of image files; {"do": "video", "input": FILE, "skip_frames": N, "out": FILE
or null} reads a video, and writes its rows.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import sys
import time
import warnings
from typing import Any, TextIO

CUDA_PACKAGES = ("nvidia", "triton", "cuda", "cusparselt")
CUDA_PARTS = ("cuda", "nvrtc", "nvshmem", "cudnn", "nccl", "cublas")
HUB_NAMES = {"model.safetensors": "retinaface_r34.safetensors"}  # the hub's name -> the name in a weights folder


def main() -> None:
    """Load, say so, then answer requests until the input ends."""
    start = time.perf_counter()
    config = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    channel = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what py-feat prints must not mix with the answers
    import numpy
    import torch

    torch.set_num_threads(config["threads"])
    if config["weights"]:
        use_folder(pathlib.Path(config["weights"]))
    detector = make_detector(config)
    frame = torch.from_numpy(numpy.load(config["frame"]).transpose(2, 0, 1)[None].copy())
    loaded = time.perf_counter() - start
    detect = functools.partial(detector.detect, batch_size=1, progress_bar=False)
    if config.get("output_size"):  # py-feat scales files alone
        detect = functools.partial(detect, [config["picture"]], data_type="image", output_size=config["output_size"])
    else:
        detect = functools.partial(detect, frame, data_type="tensor")
    answer(channel, ready=True, load_s=loaded, versions=versions(), installed_mb=installed_mb())
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "table":
            fex = detector.detect(request["inputs"], data_type="image", batch_size=1, progress_bar=False)
            fex.to_csv(request["out"], index=False)
            answer(channel, rows=len(fex))
            continue
        if request["do"] == "video":
            wall = time.perf_counter()
            fex = detector.detect(
                request["input"],
                data_type="video",
                batch_size=1,
                skip_frames=request["skip_frames"],
                progress_bar=False,
            )
            wall = time.perf_counter() - wall
            if request["out"]:
                fex.to_csv(request["out"], index=False)
            answer(channel, rows=len(fex), frames=int(fex["frame"].nunique()), seconds=wall)
            continue
        if request["do"] == "network":
            module, shape = network(detector, request["name"], frame.shape)
            value = torch.rand(shape)
            run = functools.partial(module, value)
        else:
            run = detect
        with torch.inference_mode():
            for _ in range(request.get("warmup", 0)):
                run()
            busy, wall, cpu = busy_s(), time.perf_counter(), time.process_time()
            found = run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            foreign = max(0.0, busy_s() - busy - cpu) / (wall * (os.cpu_count() or 1))
        faces = int(found["FaceRectX"].notna().sum()) if request["do"] == "frame" else None
        answer(channel, wall_ms=wall * 1e3, cpu_ms=cpu * 1e3, foreign_share=foreign, faces=faces, **memory_mb())


def use_folder(folder: pathlib.Path) -> None:
    """Point every hub look-up of py-feat at files in a folder."""
    import huggingface_hub

    def local(repo_id: str = "", filename: str = "", **_: Any) -> str:
        own = folder / repo_id.rsplit("/", 1)[-1] / filename  # names that several repositories have
        return str(own if own.exists() else folder / HUB_NAMES.get(filename, filename))

    huggingface_hub.hf_hub_download = local  # type: ignore[assignment]
    import feat.utils

    feat.utils.hf_hub_download_with_fallback = local
    import feat.detector

    feat.detector.hf_hub_download = local


def make_detector(config: dict[str, Any]) -> Any:
    """py-feat's detector of the bundle's pipeline, its face detector answering the given boxes after it has run."""
    identity = config["identity"]
    if config["pipeline"] == "detectorv2":
        from feat.detector_v2 import Detectorv2

        detector = Detectorv2(device="cpu", identity_model=identity)
        found = detector.face_detector
    else:
        from feat.detector import Detectorv1

        detector = Detectorv1(**config["models"], identity_model=identity, device="cpu")
        found = detector.facepose_detector
    detector.found = found
    if config["boxes"]:

        def fixed(frames: Any) -> list[Any]:
            found(frames)
            return [[[*box, 1.0] for box in config["boxes"]]] * len(frames)

        detector.face_detector = detector.facepose_detector = fixed
    return detector


def network(detector: Any, name: str, frame_shape: Any) -> tuple[Any, tuple[int, ...]]:
    """A network of the detector and the shape of its input."""
    if name == "faces":
        return detector.found.net, tuple(frame_shape)
    if name == "multitask":
        return detector.multitask.model, (1, 3, 224, 224)
    if name == "landmarks":
        return detector.landmark_detector, (1, 3, 112, 112)
    if name == "emotion":
        return detector.emotion_detector, (1, 3, 224, 224)
    if name == "gaze":
        return detector.gaze_detector.model, (1, 3, 224, 224)
    return detector.identity_detector.net, (1, 3, 112, 112)


def versions() -> dict[str, str]:
    """What runs here."""
    from importlib.metadata import version

    return {name: version(name) for name in ("py-feat", "torch", "torchvision", "timm", "numpy")}


def installed_mb() -> dict[str, float]:
    """Megabytes of this environment's packages: those that serve only CUDA (NVIDIA's, triton, torch's own CUDA part), and the rest."""
    import sysconfig

    found = {"rest": 0.0, "cuda": 0.0}
    root = sysconfig.get_paths()["purelib"]
    for folder, _, names in os.walk(root):
        top = os.path.relpath(folder, root).split(os.sep)[0]
        for name in names:
            of_torch = top == "torch" and name.startswith("lib") and any(word in name for word in CUDA_PARTS)
            key = "cuda" if of_torch or top.startswith(CUDA_PACKAGES) else "rest"
            found[key] += os.lstat(os.path.join(folder, name)).st_size / 1e6
    return found


def busy_s() -> float:
    """CPU seconds that the whole machine has spent on anything: /proc/stat's, less idle, waiting for disks, and guests (counted in user)."""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = [int(field) for field in file.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def memory_mb() -> dict[str, float]:
    """Resident megabytes of this process, now and at most."""
    with open("/proc/self/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return {name: int(fields[key].split()[0]) * 1024 / 1e6 for name, key in (("rss_mb", "VmRSS"), ("peak_mb", "VmHWM"))}


def answer(channel: TextIO, **values: Any) -> None:
    """One JSON line."""
    channel.write(json.dumps(values) + "\n")


if __name__ == "__main__":
    main()
