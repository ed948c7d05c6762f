"""AFLW2000-3D and BIWI as the published head-pose tests read them: labels, the labelled face, crops.

Mirrors `datasets.py` and `create_filename_list.py` of TokenHPE and 6DRepNet (which agree), and NLML_HPE's crop.
"""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexruntime.arrays import F64, U8
from fexruntime.errors import InputError, one_line
from fexruntime.sources.images import IMAGE_SUFFIXES, read_image

DATASETS = ("aflw2000", "biwi")
CROPS = ("picture", "6drepnet", "nlml")
"""What of a picture is read: all of it; TokenHPE's and 6DRepNet's crop round the labelled points, black outside; NLML_HPE's,
which stays inside. BIWI's pictures are crops already: there all three are the picture."""
LARGEST_DEG = 99.0
"""create_filename_list.py lists pictures whose angles are all within this."""
LIST = "files.txt"
"""That script's list, if a folder has it: names without a suffix, a line each, taken as they are."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Pictures with a known head pose; sample i of everything is the same one."""

    name: str
    path: Path
    names: tuple[str, ...]
    """Each sample's name, a path within the folder without its suffix (AFLW2000), or its number (BIWI)."""
    labels_rad: F64
    """[N,3] pitch, yaw, roll with the data sets' signs (see `fexruntime.rotations`)."""
    points_xyxy_px: F64 | None
    """[N,4] bounds of the labelled points that are visible, or None where there are none."""
    pictures: Callable[[str, Collection[int]], Iterator[U8]] = field(repr=False)
    """(a name in `CROPS`, sample numbers in order) -> their pictures [H,W,3] RGB."""
    listed: NDArray[np.intp] = field(repr=False)
    """Numbers of the samples that are scored."""
    chosen_by: str = ""
    """How those were chosen, in words."""

    def __len__(self) -> int:
        return len(self.names)


def open_dataset(name: str, path: Path, bgr: bool = False) -> Dataset:
    """A data set by its name in `DATASETS`; `bgr`: BIWI's pictures were written in that order.

    Raises InputError for a folder that is none.
    """
    if name not in DATASETS:
        raise InputError(f"no data set {name!r}: use {', '.join(DATASETS)}")
    if not path.exists():
        raise InputError(f"{str(path)!r} does not exist: give the folder of {name}")
    if bgr and name != "biwi":
        raise InputError(f"the pictures of {name} are image files, whose colour order is known: leave out --bgr")
    return _aflw2000(path) if name == "aflw2000" else _biwi(path, bgr)


def crop_6drepnet(low_x: Any, low_y: Any, high_x: Any, high_y: Any) -> tuple[int, int, int, int]:
    """TokenHPE's and 6DRepNet's crop (left, top, right, bottom) of the bounds of a picture's labelled points.

    Each step reads what the one before wrote, and points outside the picture (x = -1) count: both are the originals'.
    """
    k = 0.2
    low_x = low_x - 2 * k * abs(high_x - low_x)
    low_y = low_y - 2 * k * abs(high_y - low_y)
    high_x = high_x + 2 * k * abs(high_x - low_x)
    high_y = high_y + 0.6 * k * abs(high_y - low_y)
    return int(low_x), int(low_y), int(high_x), int(high_y)


def crop_nlml(low_x: Any, low_y: Any, high_x: Any, high_y: Any, width: int, height: int) -> tuple[int, int, int, int]:
    """NLML_HPE's crop of the same bounds: whole pixels from the start, held inside the picture."""
    x1, y1, x2, y2 = (int(v) for v in (low_x, low_y, high_x, high_y))
    k = 0.2
    x1 = max(int(x1 - 2 * k * abs(x2 - x1)), 0)
    y1 = max(int(y1 - 2 * k * abs(y2 - y1)), 0)
    x2 = min(int(x2 + 2 * k * abs(x2 - x1)), width)
    y2 = min(int(y2 + 0.6 * k * abs(y2 - y1)), height)
    return x1, y1, x2, y2


def cut_out(image: U8, box: tuple[int, int, int, int]) -> U8:
    """The box (left, top, right, bottom) of an image [H,W,3], black where it leaves it (Pillow's `crop`)."""
    left, top, right, bottom = box
    height, width = image.shape[:2]
    out = np.zeros((max(bottom - top, 1), max(right - left, 1), 3), np.uint8)
    y1, y2, x1, x2 = max(top, 0), min(bottom, height), max(left, 0), min(right, width)
    if y1 < y2 and x1 < x2:
        out[y1 - top : y2 - top, x1 - left : x2 - left] = image[y1:y2, x1:x2]
    return out


def _aflw2000(folder: Path) -> Dataset:
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is not a folder: AFLW2000 is one of X.jpg with X.mat")
    named = (folder / LIST).is_file()
    names = (
        _listed_names(folder)
        if named
        else sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.mat"))
    )
    if not names:
        raise InputError(f"no .mat files in {str(folder)!r}: AFLW2000 has an X.mat for each X.jpg")
    read = [_read_mat(folder / f"{name}.mat") for name in names]
    labels = np.array([pose for pose, _ in read])
    within = (np.abs(labels * 180 / np.pi) <= LARGEST_DEG).all(axis=1)
    points = [p for _, p in read]

    def pictures(crop: str, numbers: Collection[int]) -> Iterator[U8]:
        for i in numbers:
            image = read_image(_image_of(folder, names[i]))
            bounds = _bounds(points[i])
            if crop == "6drepnet":
                image = cut_out(image, crop_6drepnet(*bounds))
            elif crop == "nlml":
                image = cut_out(image, crop_nlml(*bounds, image.shape[1], image.shape[0]))
            yield image

    return Dataset(
        "aflw2000",
        folder,
        tuple(names),
        labels,
        np.array([_bounds(p[:, p[0] >= 0] if (p[0] >= 0).any() else p) for p in points], np.float64),
        pictures,
        np.arange(len(names)) if named else np.flatnonzero(within),
        f"those in {LIST}" if named else f"all angles within {LARGEST_DEG:g} degrees",
    )


def _listed_names(folder: Path) -> list[str]:
    lines = [line.strip() for line in (folder / LIST).read_text(encoding="utf-8").splitlines()]
    names = [line for line in lines if line]
    for name in names:
        if not (folder / f"{name}.mat").is_file():
            raise InputError(f"{str(folder / LIST)!r} lists {name!r}, but there is no {name}.mat beside it")
    return names


def _bounds(points: NDArray[Any]) -> tuple[Any, Any, Any, Any]:
    return min(points[0]), min(points[1]), max(points[0]), max(points[1])


def _read_mat(path: Path) -> tuple[F64, NDArray[Any]]:
    """(pitch, yaw, roll in radians, points [2,K]) of a label file."""
    from scipy.io import loadmat

    try:
        content = loadmat(str(path), variable_names=["Pose_Para", "pt2d"])
    except Exception as error:  # scipy raises its own, zlib's, struct's and OSError
        raise InputError(f"{str(path)!r} cannot be read as a MATLAB file: {one_line(error)}") from None
    pose, points = content.get("Pose_Para"), content.get("pt2d")
    if pose is None or points is None or pose.size < 3 or points.ndim != 2 or len(points) != 2 or not points.size:
        raise InputError(
            f"{str(path)!r} has no Pose_Para (pitch, yaw, roll, …) or no pt2d [2,K]: it is no AFLW2000 label"
        )
    angles = pose.reshape(-1)[:3].astype(np.float64)
    if not (np.isfinite(angles).all() and np.isfinite(points).all()):
        raise InputError(f"{str(path)!r} has labels that are not finite: leave that picture out")
    return angles, points


def _image_of(folder: Path, name: str) -> Path:
    for suffix in IMAGE_SUFFIXES:
        for path in (folder / f"{name}{suffix}", folder / f"{name}{suffix.upper()}"):
            if path.is_file():
                return path
    raise InputError(f"there is no picture for {str(folder / name)!r}: looked for {', '.join(IMAGE_SUFFIXES)}")


def _biwi(path: Path, bgr: bool) -> Dataset:
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if len(files) != 1:
        raise InputError(
            f"{len(files)} .npz files in {str(path)!r}: give BIWI's own, with image [N,H,W,3] and pose [N,3]"
        )
    (file,) = files
    try:
        with np.load(file, allow_pickle=False) as content:
            pose = np.asarray(content["pose"], np.float64)
        shape, _ = _image_header(file)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{str(file)!r} is not BIWI's npz of image [N,H,W,3] and pose [N,3] (yaw, pitch, roll): {one_line(error)}"
        ) from None
    if pose.ndim != 2 or pose.shape[1] != 3 or len(shape) != 4 or shape[0] != len(pose) or not len(pose):
        raise InputError(f"{str(file)!r} has pose {pose.shape} and image {shape}: [N,3] and [N,H,W,3] are needed")
    if not np.isfinite(pose).all():
        raise InputError(f"{str(file)!r} has labels that are not finite")

    def pictures(crop: str, numbers: Collection[int]) -> Iterator[U8]:
        wanted = sorted(set(numbers))
        kept = {i: image for i, image in _images(file, wanted)} if list(numbers) != wanted else None
        images = ((i, kept[i]) for i in numbers) if kept is not None else _images(file, wanted)
        for _, image in images:
            yield np.ascontiguousarray(image[:, :, ::-1]) if bgr else image

    labels = np.deg2rad(pose)[:, [1, 0, 2]]
    names = tuple(str(i) for i in range(len(pose)))
    return Dataset("biwi", file, names, labels, None, pictures, np.arange(len(pose)), "all")


def _image_header(file: Path) -> tuple[tuple[int, ...], Any]:
    with zipfile.ZipFile(file) as archive, archive.open("image.npy") as stream:
        shape, fortran, dtype = _header(stream)
    if fortran or dtype != np.uint8 or shape[-1:] != (3,):
        raise ValueError(f"image is {dtype} of shape {shape}")
    return shape, dtype


def _header(stream: Any) -> tuple[tuple[int, ...], bool, Any]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def _images(file: Path, wanted: Collection[int]) -> Iterator[tuple[int, U8]]:
    """Pictures by number, one at a time: the whole array is 3 GB."""
    wanted = set(wanted)
    last = max(wanted, default=-1)
    with zipfile.ZipFile(file) as archive, archive.open("image.npy") as stream:
        shape, _, _ = _header(stream)
        size = int(np.prod(shape[1:]))
        for i in itertools.takewhile(lambda i: i <= last, range(shape[0])):
            data = stream.read(size)
            if i in wanted:
                yield i, np.frombuffer(data, np.uint8).reshape(shape[1:])
