"""fexruntime imports with NumPy alone: every module, in a clean interpreter that forbids the heavy packages."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import importlib, pkgutil, sys

class Forbid:
    names = {"torch", "torchvision", "onnx", "onnxruntime", "pandas", "pyarrow", "cv2", "tensorrt", "cuda", "sklearn",
             "matplotlib", "ncnn", "openvino", "rich", "click", "safetensors", "huggingface_hub", "feat", "av"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ImportError(f"{name} must not be imported")

sys.meta_path.insert(0, Forbid())
import fexruntime
names = [m.name for m in pkgutil.walk_packages(fexruntime.__path__, "fexruntime.")]
for name in names:
    importlib.import_module(name)
for name in fexruntime.__all__:
    getattr(fexruntime, name)
import fexcalibration, fexport
assert not Forbid.names & {n.split(".")[0] for n in sys.modules}
print(len(names))
"""


def test_every_module_imports_with_the_heavy_packages_forbidden():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


@pytest.mark.parametrize("command", ["--help", "run --help", "inspect", "models", "doctor"])
def test_commands_for_bundles_never_import_torch(command):
    program = (
        "import sys; sys.argv = ['fexport', *sys.argv[1:]]\n"
        "from fexport.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'onnx' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *command.split()], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
