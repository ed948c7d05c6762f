"""Does a bundle still answer here what it answered when it was verified? A check that needs no torch.

Every network of a bundle has a recorded input and the outputs that the verified graph gave for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fexruntime.backends import make_backend
from fexruntime.bundle import Bundle
from fexruntime.tolerances import UNITS, difference


@dataclass(frozen=True, slots=True)
class CanonicalCheck:
    """One output of one network against its recorded value: largest difference and its limit, in the task's unit."""

    role: str
    network: str
    output: str
    task: str
    unit: str
    max: float
    limit: float

    @property
    def passed(self) -> bool:
        """Within the limit (NaN is not)."""
        return bool(self.max <= self.limit)


def check_canonical(bundle: Bundle, backend: str = "onnxruntime", threads: int | None = None) -> list[CanonicalCheck]:
    """Run every network of a bundle on its recorded input and compare. Files are checked against their digests.

    Raises BundleError if a file is not the one that was verified.
    """
    chip_size = bundle.pipeline.crop.size if bundle.pipeline.crop else 1
    checks = []
    for role, network in bundle.networks.items():
        with np.load(network.canonical.checked_path()) as file:
            recorded = dict(file)
        runner = make_backend(backend, network, threads=threads)
        found = runner.infer({runner.spec.input_name: recorded["input"]})
        runner.close()
        for tolerance in network.row.tolerances:
            expected = recorded.get(f"output.{tolerance.output}")
            if expected is None:
                continue
            gap = difference(tolerance, expected, found[tolerance.output], chip_size)
            unit = UNITS.get(tolerance.task, "")
            worst = float(gap.max()) if gap.size else float("nan")
            checks.append(
                CanonicalCheck(role, network.row.name, tolerance.output, tolerance.task, unit, worst, tolerance.limit)
            )
    return checks
