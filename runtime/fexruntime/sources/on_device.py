"""Frames whose pixels lie on a GPU: what libraries hand over by DLPack or `__cuda_array_interface__`, as a view of it.

Nothing is copied, and nothing of CUDA is imported: an object says itself where its pixels are. Reading such pixels on the CPU is
an error, never a quiet copy.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from fexruntime.arrays import U8, Indices
from fexruntime.errors import InputError
from fexruntime.sources.arrays import LEAST_SIDE, is_tensor

HOST, CUDA = (1, 3), (2, 13)
"""DLPack's kinds of devices whose memory a CPU reads (its own, and pinned), and that a GPU has (its own, and managed)."""
_LEGACY = 1
"""CUDA's default stream, by its handle."""
_NEEDS = "Detector(…, device='cuda', pixels='cuda')"


@dataclass(frozen=True, slots=True, eq=False)
class DevicePixels:
    """Pixels [H,W,3] uint8 RGB on a GPU: where a frame's `rgb_u8` is an array elsewhere.

    `strides` are bytes from one row, column and channel to the next. They may be read once what `stream` (a handle) has been
    asked for is done; None: at once. `owner` keeps the memory alive.
    """

    address: int
    shape: tuple[int, int, int]
    strides: tuple[int, int, int]
    index: int
    """Which GPU."""
    stream: int | None
    owner: Any = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of its pixels."""
        return int(np.prod(self.shape))

    @property
    def view(self) -> Indices:
        """As the kernels take a frame: see `ops.kernels.view_of`."""
        return np.array([self.address, *self.shape[:2], *self.strides], np.int64)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise on_the_cpu("reading its pixels is")


def on_the_cpu(what: str) -> InputError:
    """The error of a frame on the GPU where `what` is the CPU's."""
    return InputError(
        f"this frame lies on the GPU, and {what} the CPU's: give it as an array on the CPU, or ask only for columns whose "
        "networks run on the GPU"
    )


def is_on_device(pixels: Any) -> bool:
    """Whether a frame's pixels are on a GPU."""
    return isinstance(pixels, DevicePixels)


def lies_on_gpu(value: Any) -> bool:
    """Whether this is an array or tensor on an NVIDIA GPU. A torch tensor says so in words of its own."""
    if is_tensor(value):
        return str(getattr(value, "device", "")).startswith("cuda")
    kind = _dlpack_device(value)
    return kind[0] in CUDA if kind is not None else hasattr(value, "__cuda_array_interface__")


def from_dlpack(value: Any) -> Any:
    """An array of the CPU that a library hands over by DLPack, as NumPy's; None where it does not.

    InputError for a device that is neither the CPU nor an NVIDIA GPU.
    """
    kind = _dlpack_device(value)
    if kind is None or isinstance(value, np.ndarray):
        return None
    if kind[0] not in HOST:
        raise InputError(
            f"a {type(value).__name__} of DLPack's device {kind[0]} cannot be read: give it on the CPU or an NVIDIA GPU"
        )
    try:
        return np.from_dlpack(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise InputError(f"a {type(value).__name__} cannot be read by DLPack: {error}") from None


def frames_of(value: Any) -> Iterator[U8]:
    """The frames of an array on a GPU: [H,W,3] or [N,H,W,3] uint8 RGB, of a torch tensor [3,H,W] or [B,3,H,W].

    Each is a `DevicePixels`, which goes where a frame's array goes. InputError says what is wrong with it.
    """
    at, shape, strides, index, stream, owner = _by_dlpack(value) or _by_interface(value)
    if is_tensor(value) and len(shape) in (3, 4) and shape[-3] == 3:
        shape, strides = (*shape[:-3], *shape[-2:], shape[-3]), (*strides[:-3], *strides[-2:], strides[-3])
    if len(shape) not in (3, 4) or shape[-1] != 3:
        wanted = "[3, height, width]" if is_tensor(value) else "[height, width, 3]"
        raise InputError(f"a frame on the GPU must be {wanted} RGB, or a batch of them, not of shape {tuple(shape)}")
    if min(shape[-3:-1]) < LEAST_SIDE:
        raise InputError(
            f"a frame on the GPU of {shape[-2]} x {shape[-3]} pixels is too small: each side needs {LEAST_SIDE} or more"
        )
    for n in range(shape[0] if len(shape) == 4 else 1):
        first = at + (n * strides[0] if len(shape) == 4 else 0)
        height, width, channels = shape[-3:]
        row, column, channel = strides[-3:]
        pixels = DevicePixels(first, (height, width, channels), (row, column, channel), index, stream, owner)
        yield cast("U8", pixels)


def _dlpack_device(value: Any) -> tuple[int, int] | None:
    ask = getattr(value, "__dlpack_device__", None)
    if ask is None or not hasattr(value, "__dlpack__") or isinstance(value, type):
        return None
    try:
        kind, index = ask()
        return int(kind), int(index)
    except (TypeError, ValueError, RuntimeError, BufferError):  # it does not say
        return None


_Seen = tuple[int, tuple[int, ...], tuple[int, ...], int, "int | None", Any]
"""Address, shape, strides in bytes, GPU, stream, owner."""


class _DLTensor(ctypes.Structure):
    """`DLTensor` of dlpack.h, which is the head of a managed one."""

    _fields_ = (
        ("data", ctypes.c_void_p), ("kind", ctypes.c_int32), ("index", ctypes.c_int32), ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)), ("offset", ctypes.c_uint64),
    )  # fmt: skip


def _by_dlpack(value: Any) -> _Seen | None:
    kind = _dlpack_device(value)
    if kind is None or kind[0] not in CUDA:
        return None
    try:
        # the producer makes the default stream wait for what it has asked for; the detector's stream waits for that one
        capsule = value.__dlpack__(stream=_LEGACY)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise InputError(f"a {type(value).__name__} on the GPU cannot be read by DLPack: {error}") from None
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _DLTensor.from_address(pointer(capsule, b"dltensor"))
    if (tensor.code, tensor.bits, tensor.lanes) != (1, 8, 1):
        raise _type_error(f"DLPack's type {tensor.code} of {tensor.bits} bits")
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else _packed(shape)
    # the capsule is held, not consumed: the memory lives as long as it does
    return (tensor.data or 0) + tensor.offset, shape, strides, tensor.index, _LEGACY, capsule


def _by_interface(value: Any) -> _Seen:
    said = value.__cuda_array_interface__
    if np.dtype(said["typestr"]) != np.uint8:
        raise _type_error(said["typestr"])
    if said.get("mask") is not None:
        raise InputError("a frame on the GPU cannot have a mask: give the array without it")
    shape = tuple(int(n) for n in said["shape"])
    strides = tuple(int(n) for n in said["strides"]) if said.get("strides") is not None else _packed(shape)
    # before its third version the protocol said nothing of streams: the default one is waited for
    stream = said.get("stream") if said.get("version", 0) >= 3 else _LEGACY
    return (
        int(said["data"][0]),
        shape,
        strides,
        int(getattr(getattr(value, "device", None), "id", 0) or 0),
        stream,
        value,
    )


def _packed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[k + 1 :])) for k in range(len(shape)))


def _type_error(found: str) -> InputError:
    return InputError(f"a frame on the GPU must be uint8 in 0..255, not {found}: convert it first")


def refused(value: Any) -> InputError:
    """The error of an array on a GPU for a detector whose pixels are worked on by the CPU."""
    return InputError(
        f"this {type(value).__name__} lies on the GPU, and this detector works on pixels on the CPU: make it with {_NEEDS}, or "
        "copy the frame to the CPU first"
    )
