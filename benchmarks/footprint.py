"""What fexport takes: memory of one bundle on each backend, and disk of its environment beside py-feat's.

    python benchmarks/footprint.py BUNDLE --pyfeat-python PYFEAT_ENV/bin/python

BUNDLE has every backend's artefacts (`fexport build BUNDLE --target onnxruntime,ncnn,openvino`). Each backend runs in fresh processes of
its own, with a cache that starts empty: the first optimises the graphs, the later ones find them. A network that a backend has no
artefact of runs on the default one there, and the record says so. The runtime is installed from this checkout into a new
environment, extra after extra. Both environments are counted alike: the bytes of every file of site-packages, pip's included.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from fexport.bench import cold, measure, pyfeat, workload
from fexport.bench.runner import described
from fexruntime import open_bundle
from fexruntime.backends.base import Place
from fexruntime.bundle import Bundle
from fexruntime.errors import FexportError
from fexruntime.tuning import DEFAULT_BACKEND

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
BACKENDS = ("onnxruntime", "ncnn", "openvino")
EXTRAS = ("ncnn", "cpu,ncnn", "cpu,ncnn,openvino")
"""What is installed one after another; multitask networks have no artefact for ncnn, so that its extra alone is Detectorv1's."""
_COUNT = "import json, runpy, sys; print(json.dumps(runpy.run_path(sys.argv[1])['installed_mb']()))"


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--pyfeat-python", type=click.Path(path_type=Path), help="Python of an environment with py-feat.")
@click.option("--threads", default=2, show_default=True)
@click.option("--times", default=3, show_default=True, help="Processes a backend.")
@click.option(
    "--part", type=click.Choice([*BACKENDS, "disk"]), help="Memory on this backend, or disk, alone: as JSON on stdout."
)
def main(bundle: Path, pyfeat_python: Path | None, threads: int, times: int, part: str | None) -> None:
    """Measure, write results/footprint.json, print one line a measurement."""
    opened = open_bundle(bundle)
    memory = {}
    for name in BACKENDS if part is None else [part] if part in BACKENDS else []:
        chosen = placed(opened, name)
        if name not in chosen.values():
            raise click.UsageError(f"{str(bundle)!r} has no artefact for {name}: build it with --target {name}")
        place = Place(backend=chosen, threads=threads)
        frame = workload.frame_of(None, (640, 480))
        runs = cold.start(str(bundle), place, frame, workload.boxes_for(1, 480, 640), times=times)
        memory[name] = {"backends": chosen, "runs": runs}
        last = runs[-1]
        said = f"{name}: {last['steady_mb']:.0f} MB resident, at most {last['peak_mb']:.0f} MB"
        click.echo(said, err=part is not None)
    result = {"machine": measure.machine(), "bundle": described(opened), "threads": threads, "memory": memory}
    if part not in BACKENDS:
        result["installed"] = installed()
    if pyfeat_python is not None and part not in BACKENDS:
        result["pyfeat_installed_mb"] = counted(pyfeat_python)
        result["pyfeat"] = pyfeat._version(pyfeat_python)
    if part is not None:
        click.echo(json.dumps(result))
        return
    for extras, sizes in (*result["installed"].items(), ("py-feat", result.get("pyfeat_installed_mb", {}))):
        print(f"{extras}: {sum(sizes.values()):.0f} MB installed")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "footprint.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def placed(bundle: Bundle, backend: str) -> dict[str, str]:
    """By role: this backend where the network was verified on it, else the default one."""
    found = {}
    for role, network in bundle.networks.items():
        has = {name for v in network.record.variants for name in v.verified_on}
        found[role] = backend if backend in has else DEFAULT_BACKEND
    return found


def installed() -> dict[str, dict[str, float]]:
    """By the extras that a user installs: megabytes of a new environment with this checkout's wheel."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder) / "bin" / "python"
        for extras in EXTRAS:
            pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q", f"{ROOT}[{extras}]"]
            subprocess.run(pip, check=True)
            found[extras] = counted(python)
    return found


def counted(python: Path) -> dict[str, float]:
    """Megabytes of an environment's packages: those that serve CUDA alone, and the rest."""
    command = [str(python.absolute()), "-c", _COUNT, str(pyfeat.WORKER)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise FexportError(f"{str(python)!r} cannot count its packages: {done.stderr.strip()[-200:]}")
    sizes: dict[str, float] = json.loads(done.stdout)
    return sizes


if __name__ == "__main__":
    main()
