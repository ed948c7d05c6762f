"""The model that Triton's Python backend runs: images in, rows out, by the fexruntime that lies beside this file.

`fexport triton` copies this file as it is; what differs between bundles is in config.pbtxt. Requests that Triton puts together are
read as one batch. A request that cannot be answered is answered with one sentence, and those beside it as if it were not there.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).parent))  # before anything that is installed: the bundle goes with this one

from fexruntime import Detector
from fexruntime.errors import InputError, one_line
from fexruntime.fex import Fex
from fexruntime.options import options_of
from fexruntime.results import FrameResult
from fexruntime.sources.frame import Frame
from fexruntime.sources.limits import bound_decoders

_log = logging.getLogger("fexport.triton")
IMAGE, ROWS, VALUES, COUNT = "image", "rows", "values", "count"


@dataclass(frozen=True)
class _Asked:
    """A request whose images were decoded, or the answer that says what is wrong with it."""

    frames: tuple[Frame, ...]
    outputs: frozenset[str]
    refused: Any = None
    """Not the exception: its frames hold the request, and by those that called them what holds the exception. A request that is in
    such a circle keeps its shared memory until Python looks for circles."""


class TritonPythonModel:
    """One instance: a detector of its own, made once."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle. What it raises, Triton shows, and the model is not ready."""
        config = json.loads(args["model_config"])
        said = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._most_bytes = int(said["max_bytes"])
        bound_decoders(int(said["max_pixels"]))
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
        place: dict[str, Any] = {
            "backend": said["backend"],
            "device": said["device"],
            "max_pixels": int(said["max_pixels"]),
        }
        if said["threads"]:
            place["threads"] = int(said["threads"])
        if args["model_instance_kind"] == "GPU":
            place["device"] = f"{said['device']}:{args['model_instance_device_id']}"
        steps = json.loads(said["steps"])
        if steps:
            from fexruntime.backends import triton

            triton.STEPS.update({role: triton.Step(**step) for role, step in steps.items()})
            place |= {"backend": {role: "triton" for role in steps}, "device": "cpu"}
        columns = said["columns"].split(",") if said["columns"] else None
        self._columns = columns
        self._options = options_of({"columns": columns})
        self._detector = Detector(Path(__file__).parent / "bundle", **place)
        if not steps:  # those that run as models of their own may not be up yet
            self._detector.warmup()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response a request, in their order."""
        asked = [self._asked(request) for request in requests]
        answers: list[Any] = [a.refused for a in asked]
        good = [k for k, a in enumerate(asked) if a.refused is None]
        try:
            found = self._read([asked[k] for k in good])
        except Exception as error:  # of one of them, or of all: each by itself says which
            _log.info("a batch of %d requests: %s", len(good), one_line(error))
            found = []
            for k in good:
                try:
                    found += self._read([asked[k]])
                except Exception as own:
                    answers[k] = _refused(own)
            good = [k for k in good if answers[k] is None]
        for k, results in zip(good, found, strict=True):
            try:
                answers[k] = self._answer(results, asked[k].outputs)
            except Exception as own:
                answers[k] = _refused(own)
        return answers

    def finalize(self) -> None:
        """Release the detector, and whatever still holds a request: the stub parts with its shared memory before Python ends, and a
        request that is let go of later ends the process by a signal.
        """
        self._detector.close()
        gc.collect()

    def _asked(self, request: Any) -> _Asked:
        outputs = frozenset(request.requested_output_names())
        try:
            encoded = pb_utils.get_input_tensor_by_name(request, IMAGE).as_numpy().reshape(-1)
            named = (
                "the image" if len(encoded) == 1 else f"image {k + 1} of {len(encoded)}" for k in range(len(encoded))
            )
            frames = tuple(self._frame(data, called) for data, called in zip(encoded, named, strict=True))
        except Exception as error:  # too large for the memory there is, for one: those beside it are answered
            return _Asked((), outputs, _refused(error))
        return _Asked(frames, outputs)

    def _frame(self, data: bytes, called: str) -> Frame:
        from fexruntime.sources.images import decode_image

        if len(data) > self._most_bytes:
            raise InputError(f"{called} has {len(data)} bytes, more than {self._most_bytes}: send a smaller one")
        return Frame(decode_image(data, called, max_pixels=self._detector.max_pixels), 0, "bytes")

    def _read(self, asked: Sequence[_Asked]) -> list[list[FrameResult]]:
        results = iter(self._detector.run([f for a in asked for f in a.frames], self._options, rows_only=True))
        return [[next(results) for _ in a.frames] for a in asked]

    def _answer(self, results: Sequence[FrameResult], outputs: frozenset[str]) -> Any:
        """Outputs of a request; each of its images is a table of its own."""
        tables = [self._detector.to_fex([result], columns=self._columns) for result in results]
        made: dict[str, Any] = {}
        if ROWS in outputs:
            made[ROWS] = np.array([self._text(fex) for fex in tables], object).reshape(-1, 1)
        if COUNT in outputs:
            made[COUNT] = np.array([[len(fex)] for fex in tables], np.int32)
        if VALUES in outputs:
            width = len(tables[0].numeric_columns)
            made[VALUES] = np.full((len(tables), max(map(len, tables)), width), np.nan, np.float32)
            for values, fex in zip(made[VALUES], tables, strict=True):
                values[: len(fex)] = fex.values
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in made.items()])

    def _text(self, fex: Fex) -> bytes:
        made_up = self._detector.bundle.stand_ins
        said = {"rows": fex.to_dict()} | ({"stand_in_weights": list(made_up)} if made_up else {})
        return json.dumps(said, ensure_ascii=False, allow_nan=False).encode()


def _refused(error: Exception) -> Any:
    """A response that says what is wrong: with the request, or here."""
    if isinstance(error, InputError):
        code, said = pb_utils.TritonError.INVALID_ARG, str(error)
    else:
        code, said = pb_utils.TritonError.INTERNAL, one_line(error)
        _log.error("a request could not be answered", exc_info=error)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(said, code))
