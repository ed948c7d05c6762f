"""The door is typed: what a user writes passes mypy --strict, what cannot work does not."""

from __future__ import annotations

import pytest

api = pytest.importorskip("mypy.api")

RIGHT = """
import io
from pathlib import Path
import numpy as np
import fexruntime
from fexruntime import Detector, Fex, InferenceError, InputError, OutOfMemoryError, record

detector = Detector("bundle", threads=2, backend={"faces": "ncnn"}, max_pixels=10_000_000)
picture = np.zeros((64, 64, 3), np.uint8)
fex: Fex = detector.detect(["a.jpg", Path("b.jpg")], batch_size=2)
for given in (b"x", io.BytesIO(b"x"), picture, "folder"):
    detector.detect(given)
detector.detect([picture, picture], boxes=[np.zeros((1, 4)), [[0.0, 0.0, 9.0, 9.0]]])
detector.detect(picture, boxes=np.zeros((1, 4), np.float32))
detector.live(0)
version: str = fexruntime.__version__
"""
WRONG = """
from fexruntime import Detecter
from fexruntime import Detector
detector = Detector("bundle")
detector.detect(3.5)
detector.detect(None)
detector.detect("x", boxes="rubbish")
detector.detect("x", batch_sise=2)
detector.detect("x", batch_size="2")
detector.live(2.5)
Detector("bundle", backend=3)
Detector("bundle", treads=3)
"""


def checked(tmp_path, text):
    program = tmp_path / "program.py"
    program.write_text(text, encoding="utf-8")
    out, err, _ = api.run(["--strict", "--no-error-summary", "--cache-dir", str(tmp_path / "cache"), str(program)])
    assert not err, err
    return [int(line.split(":")[1]) for line in out.splitlines() if "program.py" in line and ": error:" in line]


def test_a_right_program_passes_and_each_wrong_line_is_refused(tmp_path):
    assert checked(tmp_path, RIGHT) == []
    lines = set(checked(tmp_path, WRONG))
    expected = {n for n, line in enumerate(WRONG.splitlines(), 1) if line and n not in (3, 4)}
    assert lines == expected


def test_every_public_name_is_there_and_listed():
    import fexruntime

    assert set(fexruntime.__all__) <= set(dir(fexruntime))
    for name in fexruntime.__all__:
        assert getattr(fexruntime, name) is not None
    assert not issubclass(fexruntime.OutOfMemoryError, fexruntime.InputError)
    assert not issubclass(fexruntime.ClosedError, fexruntime.InputError)
