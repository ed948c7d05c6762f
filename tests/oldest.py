"""Print every requirement of pyproject.toml (but those of developing, of CUDA) at the oldest version that it declares, for `make oldest`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

LEFT_OUT = ("dev", "all", "gpu", "nvrtc", "ray", "docs", "fuzz")
"""Ray is a recipe's, not the package's; `all` names the others; ONNX Runtime for CUDA overwrites the CPU's; the CUDA compiler, the docs'
site and the fuzzer are for tests alone."""


def floors(text: str) -> list[str]:
    """`name==floor` of each `name>=floor`, sorted; raises ValueError for one without a floor, or with two."""
    base = re.search(r"^dependencies = \[(.*?)\]$", text, re.M | re.S)
    extras = re.search(r"^\[project\.optional-dependencies\]\n(.*?)^\[", text, re.M | re.S)
    if base is None or extras is None:
        raise ValueError("pyproject.toml has no dependencies, or no optional ones")
    groups = re.findall(r"^(\w+) = \[(.*?)\]$", extras[1], re.M | re.S)
    lists = [base[1], *(listed for name, listed in groups if name not in LEFT_OUT)]
    found: dict[str, str] = {}
    for requirement in re.findall(r'"([^"]+)"', "\n".join(lists)):
        parts = re.fullmatch(r"([A-Za-z0-9_.-]+)>=([0-9.]+)", requirement)
        if parts is None or found.setdefault(parts[1], parts[2]) != parts[2]:
            raise ValueError(f"pyproject.toml: {requirement!r} does not say one oldest version")
    return [f"{name}=={version}" for name, version in sorted(found.items())]


if __name__ == "__main__":
    sys.stdout.write(
        "\n".join(floors((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))) + "\n"
    )
