"""What networks are verified on: a real face at several crops, and noise; always the same, so that reports compare.

The photograph comes with the package. Noise reaches corners that one face does not; the face keeps activations where they are in use.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np

from fexport.session import Case
from fexruntime import crop as cropping
from fexruntime.arrays import F32, U8
from fexruntime.contracts import PIPELINES, VALUES, Choice, Crop, Network, Stage
from fexruntime.contracts.labels import LANDMARKS
from fexruntime.detect import fill_input_numpy
from fexruntime.heads import DECODERS
from fexruntime.options import Options
from fexruntime.resample import resize_u8
from fexruntime.sources.images import read_image

Cases = dict[str, list[Case]]
"""Inputs of a network by kind ("faces", "noise"), each with a batch axis; batches of one and of several."""
PHOTOGRAPH = Path(__file__).parent / "photographs" / "astronaut.jpg"
FACE_XYXY_PX = (178.0, 54.0, 271.0, 179.0)
"""The face in the photograph, to about three pixels (a test holds the detector to it)."""

_FRAME_SIZES_HW = ((512, 512), (333, 251), (96, 128))
_JITTER = ((0.0, 0.0, 1.0), (9.0, -6.0, 1.15), (-14.0, 11.0, 0.85), (2.0, 40.0, 1.6))
"""Shifts in pixels and scales of the face's box; the last one leaves the face off centre."""


@lru_cache(maxsize=1)
def photograph() -> U8:
    """The photograph, [512,512,3] uint8 RGB."""
    return read_image(PHOTOGRAPH)


def cases(network: Network, choice: Choice) -> Cases:
    """What to compare a network on, by what its choice reads: frames (a finder), chips, or values of earlier stages."""
    if not choice.reads:
        return _frames(network)
    parts = [_of_crop(r) if isinstance(r, Crop) else _of_value(r) for r in choice.reads]
    return {
        kind: [tuple(arrays) for arrays in zip(*(part[kind] for part in parts), strict=True)]
        for kind in ("faces", "noise")
    }


def canonical(network: Network, choice: Choice) -> Case:
    """Candidates for the input that a bundle records with its outputs: small, exact in uint8 where it is an image."""
    if not choice.reads:
        return (_as_input(resize_u8(photograph(), 96, 128), network),)
    return tuple(
        _coarse((np.rint(_chips(r) * 255) / 255).astype(np.float32))
        if isinstance(r, Crop)
        else _of_value(r)["faces"][0]
        for r in choice.reads
    )


def _coarse(chips: F32) -> F32:
    """The chips in blocks of 4 x 4 pixels: a recorded input takes a tenth of the bytes, and a face is still one."""
    rows, columns = chips.shape[2:]
    grid = np.minimum(np.arange(max(rows, columns)) // 4 * 4, max(rows, columns) - 1)
    coarse: F32 = np.ascontiguousarray(chips[:, :, grid[:rows]][:, :, :, grid[:columns]])
    return coarse


def _of_crop(crop: Crop) -> dict[str, list[F32]]:
    faces, noise = _chips(crop), _noise_chips(crop.size)
    return {"faces": [faces, *(faces[i : i + 1] for i in range(2))], "noise": [noise, noise[:1]]}


def _of_value(name: str) -> dict[str, list[F32]]:
    """What a stage without a graph makes of samples; landmarks as rings of plausible size; else numbers of its shape."""
    host = next((s for p in PIPELINES for s in p.stages if name in s.gives and s.choices[0].network is None), None)
    if host is not None:
        return _computed(host, name)
    rng = np.random.RandomState(9)
    value = VALUES[name]
    shape = value.shape
    if shape == (LANDMARKS, 2):
        size = 400 if value.points else 1  # in pixels of a frame, or fractions of a crop
        angle = np.linspace(0, 2 * np.pi, LANDMARKS, endpoint=False)
        centre = [200, 150] if value.points else [0.5, 0.5]
        ring = np.stack([np.cos(angle), np.sin(angle)], 1) * ([50, 70] if value.points else [0.35, 0.4]) + centre
        faces = (ring + rng.standard_normal((4, *shape)) * (size / 100)).astype(np.float32)
        noise = rng.uniform(0, size, (3, *shape)).astype(np.float32)
    else:
        faces = rng.standard_normal((4, *shape)).astype(np.float32)
        noise = (8 * rng.standard_normal((3, *shape))).astype(np.float32)
    return {"faces": [faces, faces[:1], faces[1:2]], "noise": [noise, noise[:1]]}


class _NoFaces:
    """What a decoder is given for samples, which lie in no frame."""

    options = Options()
    values: Mapping[str, F32] = MappingProxyType({})

    def regions(self, crop: Crop) -> cropping.Region:
        raise NotImplementedError("a stage without a graph is sampled by what it reads alone")

    def pictures_xywh_px(self) -> F32:
        return np.array([[0, 0, 640, 480]], np.float32)


def _computed(host: Stage, name: str) -> dict[str, list[F32]]:
    choice = host.choices[0]
    parts = [_of_crop(r) if isinstance(r, Crop) else _of_value(r) for r in choice.reads]
    return {
        kind: [
            DECODERS[host.decode](dict(zip(choice.host_inputs, arrays, strict=True)), _NoFaces(), host, choice.crop)[
                name
            ]
            for arrays in zip(*(part[kind] for part in parts), strict=True)
        ]
        for kind in ("faces", "noise")
    }


def _chips(crop: Crop) -> F32:
    x1, y1, x2, y2 = FACE_XYXY_PX
    boxes = []
    for dx, dy, scale in _JITTER:
        cx, cy, w, h = (x1 + x2) / 2 + dx, (y1 + y2) / 2 + dy, (x2 - x1) * scale, (y2 - y1) * scale
        boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    # what a finder says of an upright face, for kinds of crop that ask
    upright = {v.name: np.zeros((len(boxes), *v.shape), np.float32) for v in VALUES.values()}
    region = cropping.locate(np.array(boxes, np.float32), crop, upright)
    chips = np.empty((len(boxes), 3, crop.size, crop.size), np.float32)
    cropping.cut_numpy(photograph(), region.sample_xyxy_px, crop, chips)
    chips[1] = chips[1, :, :, ::-1] * np.float32(0.7)  # mirrored, darker
    return chips


def _noise_chips(size: int) -> F32:
    rng = np.random.RandomState(7)
    smooth = np.stack(
        [resize_u8(rng.randint(0, 256, (size // 8, size // 8, 3), np.uint8), size, size) for _ in range(2)]
    )
    chips = np.concatenate([smooth, rng.randint(0, 256, (1, size, size, 3)).astype(np.uint8)])
    planar: F32 = np.ascontiguousarray(chips.transpose(0, 3, 1, 2)).astype(np.float32)
    unit: F32 = planar / np.float32(255)
    return unit


def _frames(network: Network) -> Cases:
    rng = np.random.RandomState(8)
    faces = [_as_input(resize_u8(photograph(), *size), network) for size in _FRAME_SIZES_HW]
    pair = np.concatenate([faces[1], faces[1][:, :, :, ::-1]])
    noise = _as_input(resize_u8(rng.randint(0, 256, (23, 31, 3), np.uint8), 181, 245), network)
    return {"faces": [(f,) for f in (*faces, pair)], "noise": [(noise,)]}


def _as_input(image: U8, network: Network) -> F32:
    tensor = np.empty((1, 3, *image.shape[:2]), np.float32)
    fill_input_numpy(image, network.preprocessing, tensor[0])
    return tensor
