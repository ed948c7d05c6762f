"""Pixels in memory -> uint8 RGB [H,W,3]: NumPy arrays, PIL images, torch tensors as py-feat takes them.

None of those libraries is imported here: an object says itself what it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fexruntime.arrays import U8
from fexruntime.errors import InputError

LEAST_SIDE = 2


def checked(image: Any, called: str = "an image array") -> U8:
    """An array as a contiguous uint8 RGB image [H,W,3]; InputError says what is wrong with it."""
    if not isinstance(image, np.ndarray):
        raise InputError(f"{called} must be a NumPy array or a path, not a {type(image).__name__}")
    if image.ndim == 3 and image.shape[2] != 3 and image.shape[0] in (1, 3, 4):
        raise InputError(
            f"{called} has shape {image.shape}, channels first: an array must be [height, width, 3] RGB; give "
            "image.transpose(1, 2, 0)"
        )
    if image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"{called} must be [height, width, 3] RGB, not of shape {image.shape}")
    if image.dtype != np.uint8:
        raise InputError(
            f"{called} must be uint8 in 0..255, not {image.dtype}: convert it first (pixels in 0..1: "
            "(255 * image).round().astype('uint8'))"
        )
    if min(image.shape[:2]) < LEAST_SIDE:
        raise InputError(
            f"{called} of {image.shape[1]} x {image.shape[0]} pixels is too small: each side needs {LEAST_SIDE} or more"
        )
    return np.ascontiguousarray(image)


def is_tensor(value: Any) -> bool:
    """Whether this is a torch tensor."""
    return type(value).__module__.split(".")[0] == "torch" and hasattr(value, "detach")


def is_pil(value: Any) -> bool:
    """Whether this is an image of PIL."""
    return any(kind.__module__.startswith("PIL.") and kind.__name__ == "Image" for kind in type(value).__mro__)


def from_tensor(tensor: Any) -> NDArray[Any]:
    """A torch tensor [3,H,W] or [B,3,H,W], RGB in 0..255, as an array [H,W,3] or [B,H,W,3] uint8.

    A tensor of floats is taken if its values are whole numbers in 0..255, as py-feat reads them. InputError otherwise.
    """
    try:
        array = np.asarray(tensor.detach().cpu().numpy())
    except (TypeError, RuntimeError) as error:  # bfloat16, a meta tensor
        raise InputError(f"a torch tensor of {tensor.dtype} cannot be read ({error}): give .to(torch.uint8)") from None
    if array.ndim not in (3, 4) or array.shape[-3] != 3:
        raise InputError(
            f"a torch tensor must be [3, height, width] or [batch, 3, height, width] RGB, as py-feat takes it, not of shape "
            f"{tuple(array.shape)}; from [height, width, 3] give .permute(2, 0, 1)"
        )
    if array.dtype != np.uint8:
        whole = array.size and bool(np.isfinite(array).all()) and bool((array == np.floor(array)).all())
        if not whole or array.min() < 0 or array.max() > 255 or 0 < array.max() <= 1:
            raise InputError(
                f"a torch tensor of {array.dtype} must hold whole numbers in 0..255: round it, or from pixels in 0..1 give "
                "(255 * tensor).round().to(torch.uint8)"
            )
        array = array.astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(array, -3, -1))


def from_pil(image: Any, exif: bool = False) -> U8:
    """A PIL image as [H,W,3] uint8 RGB: alpha dropped, grey repeated, 16 bits brought to 8, as of a file.

    InputError if its file, which PIL reads only now, is not whole.
    """
    try:
        image.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"a PIL image cannot be read: {error}") from None
    if exif:
        from importlib import import_module

        image = import_module("PIL.ImageOps").exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        deep = np.asarray(image)
        if image.mode == "F" or deep.min() < 0 or deep.max() > 65535:
            raise InputError(f"a PIL image of mode {image.mode!r} must hold 16 bits at most: convert it to RGB first")
        grey = (deep.astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"), np.uint8)
