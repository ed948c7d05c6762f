"""A gate is as wide as a portable one has to be: here each build is held to ten times what was measured before.

`python tests/export/test_margins.py BUNDLE...` writes the record from bundles that the fixtures describe.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

RECORD = Path(__file__).parents[1] / "goldens" / "measured_differences.json"
FLOOR = 1e-7
"""Below this a difference is a few units in the last place, and ten times one is still nothing."""


def measured(bundle: Path) -> dict[str, float]:
    """Largest difference of every gate on faces, by network, output, task and place among the gates."""
    found = {}
    for report in json.loads((bundle / "verification.json").read_text(encoding="utf-8"))["networks"].values():
        rows = [d for d in report["differences"] if d["kind"] == "faces"]
        found |= {f"{report['network']} {k} {d['output']} {d['task']}": d["max"] for k, d in enumerate(rows)}
    return found


@pytest.mark.parametrize("fixture", ["v2_bundle", "v28_bundle", "v1_bundle"])
def test_a_build_is_as_near_to_torch_as_it_was(fixture, request):
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))
    now = measured(request.getfixturevalue(fixture))
    assert now
    for name, value in now.items():
        assert value <= 10 * max(recorded[name], FLOOR), f"{name}: {value:.1e}, was {recorded[name]:.1e}"


def test_it_is_tighter_than_the_gates():
    """The packaged bundle's report has both: what was measured, and the limit."""
    from fexruntime.bundle import edge_bundle_path

    report = json.loads((edge_bundle_path() / "verification.json").read_text(encoding="utf-8"))["networks"]["faces"]
    assert all(10 * max(d["max"], FLOOR) < d["limit"] for d in report["differences"])


if __name__ == "__main__":
    record: dict[str, float] = {}
    for folder in sys.argv[1:]:
        record |= measured(Path(folder))
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
