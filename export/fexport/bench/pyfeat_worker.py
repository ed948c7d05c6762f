"""Runs py-feat in py-feat's own environment, on request: standard library, torch and feat only; fexport is not there.

Started as a script with a JSON object as its argument (pipeline, weights, identity, models, threads, boxes, frame file). Answers one JSON
line a request: {"do": "frame"} runs one whole detect; {"do": "network", "name": …} runs one network on random input;
{"do": "table", "inputs": […], "out": FILE} writes the rows of image files.
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

HUB_NAMES = {"model.safetensors": "retinaface_r34.safetensors"}  # the hub's name -> the name in a weights folder


def main() -> None:
    """Load, say so, then answer requests until the input ends."""
    start = time.perf_counter()
    config = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what py-feat prints must not mix with the answers
    import numpy
    import torch

    torch.set_num_threads(config["threads"])
    if config["weights"]:
        use_folder(pathlib.Path(config["weights"]))
    detector = make_detector(config)
    frame = torch.from_numpy(numpy.load(config["frame"]).transpose(2, 0, 1)[None].copy())
    loaded = time.perf_counter() - start
    answer(channel, ready=True, load_s=loaded, versions=versions(), installed_mb=installed_mb())
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "table":
            fex = detector.detect(request["inputs"], data_type="image", batch_size=1, progress_bar=False)
            fex.to_csv(request["out"], index=False)
            answer(channel, rows=len(fex))
            continue
        if request["do"] == "network":
            module, shape = network(detector, request["name"], frame.shape)
            value = torch.rand(shape)
            run = functools.partial(module, value)
        else:
            run = functools.partial(detector.detect, frame, data_type="tensor", batch_size=1, progress_bar=False)
        with torch.inference_mode():
            for _ in range(request.get("warmup", 0)):
                run()
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        answer(channel, wall_ms=wall * 1e3, cpu_ms=cpu * 1e3, rss_mb=resident_mb())


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
        boxes = [[*box, 1.0] for box in config["boxes"]]

        def fixed(frames: Any) -> list[Any]:
            found(frames)
            return [boxes] * len(frames)

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


def installed_mb() -> float:
    """Megabytes of this environment's packages."""
    import sysconfig

    total = 0.0
    for folder, _, names in os.walk(sysconfig.get_paths()["purelib"]):
        total += sum(os.lstat(os.path.join(folder, n)).st_size for n in names)
    return total / 1e6


def resident_mb() -> float:
    """Resident megabytes of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def answer(channel: TextIO, **values: Any) -> None:
    """One JSON line."""
    channel.write(json.dumps(values) + "\n")


if __name__ == "__main__":
    main()
