"""What a user installs, on every Python: the wheel in an environment of its own, without torch; its commands, then tests/runtime.

python benchmarks/pythons.py python3.10 python3.12 /somewhere/bin/python3.13

Writes results/pythons.json (what it says of other versions stays); the exit status is 1 where one failed. Tests that build bundles are skipped: torch is not there.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from fexport.bench import measure

ROOT = Path(__file__).parent.parent
PHOTO = ROOT / "export" / "fexport" / "photographs" / "astronaut.jpg"
EXTRAS = "cpu,tables,video"
TESTING = ("pytest", "pillow", "hypothesis")
PACKAGES = ("numpy", "onnxruntime", "opencv-python-headless", "av", "pandas", "pyarrow")
COMMANDS = (
    ("doctor",),
    ("verify",),
    ("run", str(PHOTO), "--out", "faces.csv", "--overlay", "drawn"),
    ("run", "--bundle", "facemesh", str(PHOTO), "--out", "mesh.parquet", "--overlay", "meshes"),
)
ABOUT = """
import importlib.util, json, platform, sys
from importlib.metadata import version
assert importlib.util.find_spec("torch") is None, "torch is there"
print(json.dumps({"python": platform.python_version(), "versions": {n: version(n) for n in sys.argv[1:]}}))
"""


def tried(python: str, wheel: Path, work: Path) -> dict[str, Any]:
    """What became of one Python."""
    subprocess.run([python, "-m", "venv", work / "venv"], check=True)
    here = work / "venv" / "bin"
    pip = [here / "python", "-m", "pip", "--disable-pip-version-check", "install", "-q", f"{wheel}[{EXTRAS}]", *TESTING]
    subprocess.run(pip, check=True)
    about = subprocess.run(
        [here / "python", "-c", ABOUT, *PACKAGES], capture_output=True, encoding="utf-8", check=True, cwd=work
    )
    for words in COMMANDS:
        subprocess.run([here / "fexport", *words], check=True, cwd=work, stdout=subprocess.DEVNULL)
    rows = {name: (work / name).stat().st_size > 100 for name in ("faces.csv", "mesh.parquet")}
    command = [
        here / "python",
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--basetemp={work / 'pytest'}",
        "tests/runtime",
    ]
    tests = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", errors="replace", cwd=ROOT, check=False
    )
    (last,) = tests.stdout.splitlines()[-1:] or [tests.stderr]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}
    if tests.returncode:
        print(tests.stdout[-8000:], tests.stderr[-2000:])
    return json.loads(about.stdout) | {"commands": all(rows.values()), "tests": counts, "status": tests.returncode}


def main() -> None:
    """Make the wheel, try each Python, write what became of them."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("pythons", nargs="+")
    words.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "pythons.json")
    chosen = words.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        (wheel,) = Path(folder).glob("*.whl")
        found = []
        for python in chosen.pythons:
            with tempfile.TemporaryDirectory() as work:
                found.append(tried(python, wheel, Path(work)))
            print(json.dumps(found[-1]), flush=True)
    known = json.loads(chosen.out.read_text(encoding="utf-8"))["pythons"] if chosen.out.exists() else []
    new = {f["python"] for f in found}
    every = sorted(
        [*(k for k in known if k["python"] not in new), *found], key=lambda f: [int(n) for n in f["python"].split(".")]
    )
    record = {"command": "make pythons", "machine": measure.machine(), "extras": EXTRAS, "pythons": every}
    chosen.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(any(f["status"] or not f["commands"] for f in found))


if __name__ == "__main__":
    main()
