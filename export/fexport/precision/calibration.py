"""`fexport calibrate`: from a bundle and pictures to ranges, or to a report of sensitivities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from fexcalibration import METHODS, chips, ranges
from fexport.modules import Loaded
from fexport.plan import Part
from fexport.precision import lower, sensitivity_report, smooth
from fexport.precision import sensitivity as analysis
from fexport.precision.plan import plan_of
from fexport.reverify import load_again
from fexport.steps import exported
from fexruntime.bundle import Bundle, open_bundle
from fexruntime.contracts.precision import FULL
from fexruntime.errors import InputError
from fexruntime.files import check_folder

Say = Callable[[str], None]
MOST_FACES = 16
"""On so many inputs sensitivities are compared."""


def write_ranges(
    out: Path, pictures: Sequence[Path], bundle: str, weights: Sequence[Path], most: int, say: Say
) -> list[ranges.Ranges]:
    """Measure every network of a bundle that int8 is for, write the ranges to `out`, answer them."""
    check_folder(out.absolute().parent)
    ranges.check_ranges(out)
    opened = _full_precision(bundle)
    seen = chips.sample(opened, pictures, most, say)
    for note in seen.notes:
        say(note)
    found = []
    for role, part, loaded in _networks(opened, weights, None):
        faces = lower.Faces(seen.calibration.get(role, ()), seen.held_out.get(role, ()))
        found.append(
            lower.measured_ranges(exported(loaded, part.choice), loaded, faces, seen.sha256, partial(_said, say, role))
        )
    ranges.save(out, found)
    return found


def sensitivity(
    bundle: str,
    pictures: Sequence[Path],
    precision: str,
    report: Path,
    weights: Sequence[Path],
    most: int,
    role: str | None,
    depth: int,
    say: Say,
) -> list[str]:
    """Rank the parts of a bundle's networks and write the report; answers a line a network."""
    opened = _full_precision(bundle)
    if role is not None and role not in opened.networks:
        raise InputError(f"no role {role!r}: this bundle has {', '.join(opened.networks)}")
    check_folder(report.absolute().parent)
    seen = chips.sample(opened, pictures, most, say)
    found = []
    for name, part, loaded in _networks(opened, weights, role):
        faces = lower.Faces(seen.calibration.get(name, ()))
        lower.check_faces(loaded, faces)
        cases = faces.calibration[:MOST_FACES]
        plain = exported(loaded, part.choice)
        model, _ = lower.prepared(plain, precision)
        measured: dict[str, ranges.Range] = {}
        if precision == "int8":
            known = lower.measured_ranges(plain, loaded, faces, seen.sha256, partial(_said, say, name))
            smooth.smooth(model, plan_of(model, loaded.network.name, precision), known.channels)
            measured = known.by(METHODS[0])
        one = analysis.analyse(
            model,
            loaded,
            part.choice.crop_size,
            precision,
            cases,
            measured,
            depth,
            partial(_said, say, name),
        )
        found.append((name, one, seen.names[name][: len(cases)]))
    sensitivity_report.write(report, found)
    return [sensitivity_report.sentence(one) for _, one, _ in found]


def _said(say: Say, role: str, text: str) -> None:
    say(f"{role}: {text}")


def _full_precision(bundle: str) -> Bundle:
    opened = open_bundle(bundle)
    low = [n.row.name for n in opened.networks.values() if n.record.precision != FULL]
    if low:
        raise InputError(f"{bundle!r} holds {', '.join(low)} in a lower precision: calibrate with an fp32 bundle")
    return opened


def _networks(bundle: Bundle, weights: Sequence[Path], only: str | None) -> Iterator[tuple[str, Part, Loaded]]:
    """(role, part, the network with its weights) of what can be lowered, from the weights that the bundle was made from."""
    chosen = {
        r: n for r, n in bundle.networks.items() if lower.can_be_lowered(n.row.name) and (only is None or r == only)
    }
    if not chosen:
        raise InputError("none of these networks can be lowered: they run in fp32 alone")
    for role, network in chosen.items():
        yield role, Part(network.stage, network.choice, network.row), load_again(network, weights)
