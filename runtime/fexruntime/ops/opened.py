"""A workspace whose pixels are worked on where its networks run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fexruntime.backends.base import Backend, Place
from fexruntime.cuda import Cuda
from fexruntime.ops.passes import resident_steps
from fexruntime.ops.resident import ResidentOps
from fexruntime.workspace import Workspace


def resident_workspace(networks: Mapping[str, Backend], finder: Any, steps: Sequence[Any], place: Place) -> Workspace:
    """A workspace on the finder's GPU: networks that can be run there take addresses, the others arrays, as ever.

    Raises InputError if the finder cannot, EnvironmentMissingError without a GPU or NVRTC.
    """
    index = place.device_of(finder.role).index
    able = [r for r, n in networks.items() if hasattr(n, "resident") and place.device_of(r).index == index]
    roles = resident_steps(finder, steps, able)
    cuda = Cuda(index)
    try:
        runners = {role: networks[role].resident(cuda) for role in roles}  # type: ignore[attr-defined]
        ops = ResidentOps(cuda, place, runners, finder, steps)
    except BaseException:
        cuda.close()
        raise
    return Workspace({r: n.share() for r, n in networks.items() if r not in roles}, ops)
