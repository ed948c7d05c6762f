"""What the fuzzer calls, without the fuzzer: its first inputs, a few hundred mutations of them, and what it found."""

from __future__ import annotations

import base64
import json
import random
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
FINDINGS = json.loads((Path(__file__).parent.parent / "goldens" / "fuzz_findings.json").read_text(encoding="utf-8"))
NAMES = ("manifest", "journal", "image", "video", "archive")


@pytest.fixture(scope="module")
def targets():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        patch.setenv("FEXPORT_MAX_PIXELS", "1000000")
        import fuzz_targets

        yield fuzz_targets.TARGETS
        sys.modules.pop("fuzz_targets")


@pytest.mark.parametrize("name", NAMES)
def test_what_the_fuzzer_begins_with_is_read(targets, name):
    answers = {targets[name].check(data) for data in targets[name].seeds()}
    assert "read" in answers


@pytest.mark.parametrize("name", NAMES)
def test_mutations_are_read_or_refused(targets, name):
    """A check raises for anything else."""
    target, rng, answers = targets[name], random.Random(15), []
    for number in range(60 if name == "journal" else 150):
        data = target.seeds()[number % 2] if name == "journal" else rng.choice(target.seeds())
        for _ in range(rng.randrange(1, 4)):
            data = target.mutate(data, rng)
        answers.append(target.check(data))
    assert "refused" in answers


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda f: f"{f['target']}: {f['place']}")
def test_what_the_fuzzer_found_is_mended(targets, finding):
    assert targets[finding["target"]].check(base64.b85decode(finding["input"])) in ("read", "refused")


def test_there_is_a_finding_of_each_reader_that_had_one():
    assert {f["target"] for f in FINDINGS} <= set(NAMES)
    assert len(FINDINGS) >= 5
