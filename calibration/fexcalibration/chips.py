"""What each network of a bundle is given on somebody's pictures: the sampler of calibration.

The bundle's own pipeline reads the pictures, and what its networks are given is kept. The same pictures in the same order
give the same sample. It is balanced: every picture gives its best face before any gives its second, so that one crowd does
not decide for all. Every fifth picture with a face is held out: nothing is measured on it, artefacts are judged on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fexruntime.arrays import F32, Values
from fexruntime.backends import open_backend
from fexruntime.backends.base import Backend, Place, Spec
from fexruntime.bundle import Bundle
from fexruntime.errors import FexportError, InputError
from fexruntime.faces import read_faces, steps_of
from fexruntime.finders import FINDERS
from fexruntime.options import Options
from fexruntime.sources.frame import Frame
from fexruntime.sources.inputs import Frames
from fexruntime.workspace import Workspace

CHIPS = 200
"""Faces that are kept unless another number is asked for."""
FRAMES = 40
"""Frames that are kept, at most, for a network that reads frames."""
FACES_A_PICTURE = 8
"""A crowd gives no more."""
LONGER_SIDE_PX = 640
"""Side of the frames that a finder reads here: larger ones are shrunk, for time and memory."""
HELD_OUT = 5
"""Every so many pictures with faces, one is held out."""
SAID_EVERY = 20
"""So many pictures are read between two words on how far it is."""
Inputs = tuple[F32, ...]
"""What a network was given for one face or frame: an array with a first axis of one for each of its inputs."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sample:
    """What was kept, by role."""

    calibration: dict[str, list[Inputs]]
    held_out: dict[str, list[Inputs]]
    pictures: int
    """How many had a face."""
    faces: int
    sha256: str
    """Digest of the pictures' pixels, in order."""
    passed_over: tuple[str, ...] = ()
    """What could not be read, and why."""
    names: dict[str, list[str]] = field(default_factory=dict)
    """Where each of `calibration` is from: the picture, and which face of it."""

    @property
    def notes(self) -> list[str]:
        """What a person should know of it."""
        said = [f"{self.faces} faces of {self.pictures} pictures"]
        if self.passed_over:
            said.append(f"{len(self.passed_over)} could not be read, the first: {self.passed_over[0]}")
        if self.pictures < HELD_OUT:
            said.append(f"fewer than {HELD_OUT} pictures with a face: none is held out to judge on")
        return said


@dataclass(slots=True)
class _Picture:
    name: str
    sha256: str
    frame: dict[str, Inputs] = field(default_factory=dict)
    faces: list[dict[str, Inputs]] = field(default_factory=list)


def sample(bundle: Bundle, pictures: Sequence[Path], chips: int = CHIPS, say: Say = lambda text: None) -> Sample:
    """Read the pictures (files, folders, videos) with the bundle as it is, and keep what its networks were given.

    Of more pictures than faces are wanted an even part is read. Raises InputError with one line if none can be read, or none
    has a face.
    """
    if chips < 1:
        raise InputError(f"chips must be 1 or more, not {chips}")
    names = ", ".join(repr(str(p)) for p in pictures)
    bad: list[str] = []

    def pass_over(error: FexportError) -> None:
        bad.append(str(error))

    with _Reader(bundle) as reader:
        used, out = _Held(chips), _Held(max(chips // HELD_OUT, 1))
        count = 0
        seen: set[str] = set()
        stride = 1
        for frame in Frames([str(p) for p in pictures], on_bad=pass_over):
            if frame.index % stride:
                continue
            digest = hashlib.sha256(frame.rgb_u8.tobytes()).hexdigest()
            if digest in seen:
                continue
            seen.add(digest)
            picture = reader.read(frame, digest, min(chips, FACES_A_PICTURE))
            if picture.faces:
                count += 1
                (used if count % HELD_OUT else out).add(picture)
            if len(seen) % SAID_EVERY == 0:
                say(f"{len(seen)} pictures read, {used.faces + out.faces} faces")
            if len(used.pictures) + len(out.pictures) > chips:  # enough: go on at half the rate, over all of them alike
                used.halve()
                out.halve()
                stride *= 2
    if not seen:
        raise InputError(f"no picture could be read from {names}: {bad[0] if bad else 'there is none'}")
    if not count:
        raise InputError(
            f"no face was found in the {len(seen)} pictures of {names}: calibration needs faces like those that will be read"
        )
    kept = used.pictures + out.pictures
    digest = hashlib.sha256("".join(p.sha256 for p in kept).encode()).hexdigest()
    calibration, origins, faces = _balanced(used)
    held_out, _, _ = _balanced(out)
    return Sample(calibration, held_out, len(kept), faces, digest, tuple(bad), origins)


@dataclass(slots=True)
class _Held:
    """Pictures of which at most `most` faces will be taken. However many faces pictures have, it holds no more than twice as
    many faces, and `FRAMES` frames.
    """

    most: int
    pictures: list[_Picture] = field(default_factory=list)
    stride: int = 1
    """Every so many pictures, one has its frame."""

    @property
    def faces(self) -> int:
        return sum(len(p.faces) for p in self.pictures)

    def add(self, picture: _Picture) -> None:
        if len(self.pictures) % self.stride:
            picture.frame = {}
        self.pictures.append(picture)
        while self.faces > 2 * self.most:  # the last faces of crowds: those before them are as many as will be taken
            largest = max(len(p.faces) for p in self.pictures)
            if largest == 1:
                break
            for one in self.pictures:
                del one.faces[largest - 1 :]
        if len(self.pictures) > FRAMES * self.stride:
            for one in self.pictures[self.stride :: 2 * self.stride]:
                one.frame = {}
            self.stride *= 2

    def halve(self) -> None:
        """Keep every second picture."""
        self.pictures, self.stride = self.pictures[::2], max(1, self.stride // 2)


def _balanced(held: _Held) -> tuple[dict[str, list[Inputs]], dict[str, list[str]], int]:
    """(inputs by role, where each is from, number of faces): the best face of every picture, then every second face, …"""
    found: dict[str, list[Inputs]] = {}
    names: dict[str, list[str]] = {}

    def add(given: dict[str, Inputs], name: str) -> None:
        for role, inputs in given.items():
            found.setdefault(role, []).append(inputs)
            names.setdefault(role, []).append(name)

    for picture in held.pictures:
        add(picture.frame, picture.name)
    taken = rank = 0
    while taken < held.most:
        having = [p for p in held.pictures if len(p.faces) > rank]
        if not having:
            break
        for picture in _spread(having, held.most - taken):
            add(picture.faces[rank], f"{picture.name}, face {rank + 1}")
            taken += 1
        rank += 1
    return found, names, taken


def _spread(pictures: Sequence[_Picture], most: int) -> list[_Picture]:
    """At most so many, evenly."""
    if len(pictures) <= most:
        return list(pictures)
    return [pictures[int(k)] for k in np.linspace(0, len(pictures) - 1, most).round()]


class _Recording:
    """A backend that keeps what it is given."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.spec: Spec = inner.spec
        self.given: list[Inputs] = []

    def infer(self, inputs: Values, out: Values | None = None) -> dict[str, F32]:
        arrays = [np.array(inputs[t.name]) for t in self.spec.inputs]
        self.given += [tuple(a[k : k + 1] for a in arrays) for k in range(len(arrays[0]))]
        return self._inner.infer(inputs, out)

    def share(self) -> _Recording:
        return self

    def close(self) -> None:
        self._inner.close()

    def describe(self) -> dict[str, Any]:
        return self._inner.describe()


class _Reader:
    """The bundle's walk over one picture at a time, with every network recorded."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._finder, self._steps = steps_of(bundle)
        self._runners = {r: _Recording(open_backend(n, Place(cache=False))) for r, n in bundle.networks.items()}
        self._workspace = Workspace(self._runners)
        self._options = Options(detector_size=LONGER_SIDE_PX)

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *error: object) -> None:
        for runner in self._runners.values():
            runner.close()

    def read(self, frame: Frame, sha256: str, most: int) -> _Picture:
        """What the networks were given: the finder for the frame, the others for each face, the best first."""
        for runner in self._runners.values():
            runner.given.clear()
        found = FINDERS[self._finder.stage.decode](self._finder, [frame], self._options, self._workspace)
        found = [{name: value[:most] for name, value in f.items()} for f in found]
        role = self._finder.role
        picture = _Picture(frame.name, sha256, {role: self._runners[role].given[0]})
        (result,) = read_faces([frame], found, self._steps, self._bundle.pipeline.rect, self._workspace, self._options)
        self._workspace.end_of_call()
        others: Iterable[str] = (r for r in self._runners if r != role)
        lists = {r: self._runners[r].given for r in others}
        # a finder's false find that a later stage dropped is no face
        count = len(found[0]["scores"]) if len(result.facerects_xywh_px) else 0
        # a stage may drop faces on the way: what later networks were given has lost its place then
        whole = {r: given for r, given in lists.items() if len(given) == count}
        picture.faces = [{r: given[k] for r, given in whole.items()} for k in range(count)]
        return picture
