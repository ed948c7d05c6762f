"""Networks of both sides as on a CPU without AVX-512, VNNI, bfloat16 and AMX, by hiding them: results/without_avx512.json.

    python benchmarks/without_avx512.py --pyfeat-python PYFEAT_ENV/bin/python --work WORK

A stand-in for such a machine, on one that has them: frequencies, caches and memory stay this machine's. Libraries choose their kernels by
what CPUID answers. In copies of ONNX Runtime, ncnn and OpenVINO each CPUID becomes an instruction that traps (as long, found by objdump), and a
preloaded handler (`without_avx512.c`) answers with the bits taken out. torch is told by its own variables. NumPy and OpenCV, which cut crops on
both sides, see all of the CPU. `WORK` is `record.py`'s, with weights and
bundles; binutils and a C compiler are needed.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from pieces import RESULTS, Work, Workload, beside_pyfeat, tuned

from fexport.bench import measure

HERE = Path(__file__).parent
LIBRARIES = ("onnxruntime/capi/onnxruntime_pybind11_state*.so", "ncnn/*.so", "openvino/libs/libopenvino*.so*")
"""What looks at the CPU, in site-packages."""
TORCH = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
CPUID, TRAP = b"\x0f\xa2", b"\x0f\x0b"
FRAMES = {
    "vga_1_face": Workload("detectorv2", ("--faces", "1"), (10,), networks=6),
    "detectorv1_vga_1_face": Workload("detectorv1", ("--faces", "1"), (8,), networks=6),
    "int8_vga_1_face": Workload("detectorv2 int8", ("--faces", "1"), (10,)),
}
_SEEN = "import json, openvino; print(json.dumps(openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')))"


@click.command()
@click.option("--pyfeat-python", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--work", type=click.Path(path_type=Path, exists=True), required=True, help="record.py's.")
@click.option("--inside", is_flag=True, hidden=True)
def main(pyfeat_python: Path, work: Path, inside: bool) -> None:
    """Prepare, measure, write the record."""
    at = Work(work.absolute(), pyfeat_python.absolute())
    if inside:
        measured(at)
        return
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise click.ClickException("this hides what x86-64 CPUs have, on Linux")
    if missing := [tool for tool in ("cc", "objdump", "readelf") if shutil.which(tool) is None]:
        raise click.ClickException(f"{', '.join(missing)} not found: install a C compiler and binutils")
    place = at.folder / "without_avx512"
    changed = environment(place / "environment")
    mask = place / "mask.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", mask, HERE / "without_avx512.c"], check=True)
    hidden = {"LD_PRELOAD": str(mask), "FEXPORT_CACHE": str(place / "cache"), **TORCH}
    words = [Path(__file__).absolute(), "--inside", "--pyfeat-python", at.pyfeat, "--work", at.folder]
    python = place / "environment" / "bin" / "python"
    told = {"FEXPORT_CHANGED_LIBRARIES": json.dumps(changed)}
    subprocess.run([python, *words], env=os.environ | hidden | told, check=True)


def environment(place: Path) -> dict[str, int]:
    """A copy of this environment (hard links) whose libraries trap where they ask for the CPU's features; how many places each has."""
    shutil.rmtree(place, ignore_errors=True)
    try:
        shutil.copytree(sys.prefix, place, symlinks=True, copy_function=os.link)
    except (OSError, shutil.Error) as error:
        raise click.ClickException(
            f"--work has to lie on the disk of {sys.prefix!r}, to share its files: {error}"
        ) from None
    (packages,) = place.glob("lib/python*/site-packages")
    found = {}
    for library in sorted(p for pattern in LIBRARIES for p in packages.glob(pattern) if not p.is_symlink()):
        code = subprocess.run(["objdump", "-d", "--no-show-raw-insn", library], capture_output=True, check=True).stdout
        addresses = [int(line.split(b":")[0], 16) for line in re.findall(rb"^.*\bcpuid\b.*$", code, re.M)]
        if addresses:
            _trap(library, addresses)
            found[library.name] = len(addresses)
    if len(found) < len(LIBRARIES):
        raise click.ClickException(
            f"a library looks at the CPU in a way that is not known here: only {', '.join(found)} were changed"
        )
    return found


def _trap(library: Path, addresses: list[int]) -> None:
    headers = subprocess.run(["readelf", "-lW", library], capture_output=True, encoding="utf-8", check=True).stdout
    loads = [[int(n, 16) for n in m] for m in re.findall(r"LOAD\s+(0x\w+)\s+(0x\w+)\s+0x\w+\s+(0x\w+)", headers)]
    data = bytearray(library.read_bytes())
    for address in addresses:
        at = next(offset + address - start for offset, start, size in loads if start <= address < start + size)
        if data[at : at + 2] != CPUID:
            raise SystemExit(f"{library.name} has no CPUID at {address:#x}")
        data[at : at + 2] = TRAP
    changed = library.with_name(f"{library.name}.changed")  # the old one is the environment's own, by a hard link
    changed.write_bytes(data)
    changed.chmod(0o755)
    changed.replace(library)


def measured(at: Work) -> None:
    """Tune and measure in the environment that this is run by, and write the record."""
    capabilities = _said(sys.executable, _SEEN)
    torch = _said(at.pyfeat, "import json, torch; print(json.dumps(torch.backends.cpu.get_cpu_capability()))")
    if "BF16" in capabilities or torch != "AVX2":
        raise SystemExit(f"nothing is hidden: OpenVINO sees {capabilities}, torch {torch}")
    machine = measure.machine()
    machine["cpu"] = f"{measure.processor(machine)} (avx2; AVX-512, VNNI and bfloat16 hidden)"
    tunings: dict[str, Any] = {}
    for bundle, threads in (
        ("detectorv2", 2),
        ("detectorv2", 1),
        ("detectorv1", 2),
        ("detectorv1", 1),
        ("detectorv2 int8", 2),
    ):
        tunings[f"{bundle}, {threads} threads"] = tuned(bundle, threads)(at)
    frames = {}
    for name, workload in FRAMES.items():
        record = beside_pyfeat(name, name, workload)
        parts = {part: piece.run(at) for part, piece in record.pieces.items()}
        frames[name] = {**record.join(parts)[f"{name}.json"], "command": Path(__file__).name}
        print(f"{name}: {frames[name]['ratio']['paired_p50']:.2f}", flush=True)
    said = {
        "machine": machine,
        "libraries": json.loads(os.environ["FEXPORT_CHANGED_LIBRARIES"]),
        "openvino_sees": capabilities,
        "torch_sees": torch,
        "tuned": tunings,
        "frames": frames,
    }
    (RESULTS / "without_avx512.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def _said(python: str | Path, program: str) -> Any:
    done = subprocess.run([python, "-c", program], stdout=subprocess.PIPE, encoding="utf-8", check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
