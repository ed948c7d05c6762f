"""The walk of faces through a pipeline's stages: chips, networks, values. It knows no role and no network by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fexruntime import crop as cropping
from fexruntime import heads
from fexruntime.arrays import F32, Indices, Values
from fexruntime.bundle import Bundle
from fexruntime.contracts import VALUES, Choice, Crop, Preprocessing, Stage
from fexruntime.crop import Region
from fexruntime.errors import BundleError
from fexruntime.options import Options
from fexruntime.results import FrameResult
from fexruntime.sources.frame import Frame
from fexruntime.sources.on_device import is_on_device, on_the_cpu
from fexruntime.workspace import Workspace

KEEP = "keep"
"""The value by which a stage drops faces."""


@dataclass(frozen=True, slots=True)
class Step:
    """A stage of an opened bundle: what fills it, what it is given, what it answers there."""

    stage: Stage
    """The row's, less values that this checkpoint has no head for."""
    choice: Choice
    inputs: tuple[str, ...]
    """Names under which it is given what its choice reads."""
    preprocessing: Preprocessing | None = None
    """What the host does to the frames that a finder reads."""
    config: Mapping[str, Any] | None = None
    """Flags of the checkpoint, for a finder that goes by them."""

    @property
    def role(self) -> str:
        """The stage's role."""
        return self.stage.role

    @property
    def gives(self) -> tuple[str, ...]:
        """The stage's values."""
        return self.stage.gives


def steps_of(bundle: Bundle) -> tuple[Step, tuple[Step, ...]]:
    """(finder, stages in the order they run) of a bundle.

    Raises BundleError if a stage reads what no stage of this bundle gives.
    """
    finder, *stages = [
        _step(bundle, s) for s in (bundle.pipeline.finder, *bundle.pipeline.stages) if s.role in bundle.roles
    ]
    given = set(finder.gives)
    for step in stages:
        for value in step.choice.reads:
            if isinstance(value, str) and value not in given:
                raise BundleError(f"{step.role} reads {value}, which no stage of the bundle {str(bundle.path)!r} gives")
        given.update(step.gives)
    return finder, tuple(stages)


def _step(bundle: Bundle, stage: Stage) -> Step:
    network = bundle.networks.get(stage.role)
    if network is None:
        stage, choice = stage.filled(None), stage.choice(None)
        return Step(stage, choice, choice.host_inputs)
    outputs = {t.name for t in network.record.outputs}
    lacking = {name for name in network.row.optional_outputs if name not in outputs}
    inputs = tuple(t.name for t in network.record.inputs)
    given = replace(network.stage, gives=tuple(name for name in network.stage.gives if name not in lacking))
    return Step(given, network.choice, inputs, network.row.preprocessing, network.record.config)


def needed(steps: Sequence[Step], wanted: frozenset[str], options: Options) -> tuple[Step, ...]:
    """The steps without which a wanted value, or what one of them reads, would be missing.

    A step that drops faces always runs: it decides which faces there are. One whose values a later step replaces does not.
    """
    kept: list[Step] = []
    missing = set(wanted)
    for step in reversed(steps):
        if missing & set(step.gives) or KEEP in step.gives:
            kept.append(step)
            if step.stage.decode in heads.REPLACES and heads.REPLACES[step.stage.decode](options):
                missing.difference_update(step.gives)
            missing.update(r for r in step.choice.reads if isinstance(r, str))
    return tuple(reversed(kept))


class Block:
    """Some faces of some frames, in pixels of the frames that the detector saw, and what is known of them so far.

    `frame_of` [N] says which of `frames` each face is in; `values` holds [N, …] by name. Chips and regions are made when
    they are first asked for, once a distinct crop.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        frame_of: Indices,
        values: Mapping[str, F32],
        workspace: Workspace,
        options: Options,
    ) -> None:
        self.frames, self.frame_of, self.options = frames, frame_of, options
        self.values: Mapping[str, F32] = dict(values)
        self._workspace = workspace
        self._regions: dict[Crop, Region] = {}
        self._chips: dict[Crop, F32] = {}
        self.answers: dict[str, dict[str, F32]] = {}
        """Raw outputs by role that were computed ahead (see `ops`)."""

    def __len__(self) -> int:
        return len(self.frame_of)

    def regions(self, crop: Crop) -> Region:
        """Where the crops lie."""
        if crop not in self._regions:
            self._regions[crop] = cropping.locate(self.values["boxes_xyxy_px"], crop, self.values)
        return self._regions[crop]

    def chips(self, crop: Crop) -> F32:
        """The crops [N,3,S,S], float32 RGB in [0,1]."""
        if crop not in self._chips:
            if any(is_on_device(f.rgb_u8) for f in self.frames):
                raise on_the_cpu(f"{crop.kind} crops are")
            out = self._workspace.empty(f"chips {crop}", len(self), 3, crop.size, crop.size)
            sample = self.regions(crop).sample_xyxy_px
            for n, frame in enumerate(self.frame_of):
                cropping.cut(self.frames[frame].rgb_u8, sample[n : n + 1], crop, out[n : n + 1])
            self._chips[crop] = out
        return self._chips[crop]

    def pictures_xywh_px(self) -> F32:
        """[N,4] left, top, width, height of the original picture in the frame that the detector saw."""
        parts = [(*f.pad_xy, f.reported_hw[1] * f.scale, f.reported_hw[0] * f.scale) for f in self.frames]
        return np.array(parts, np.float32)[self.frame_of]

    def given(self, step: Step) -> dict[str, F32]:
        """What a step reads, by the names under which it reads it."""
        reads = step.choice.reads
        return {
            name: self.chips(r) if isinstance(r, Crop) else np.ascontiguousarray(self.values[r])
            for name, r in zip(step.inputs, reads, strict=True)
        }

    def drop(self) -> None:
        """Drop the faces whose "keep" is 0, with everything that is known of them."""
        kept = self.values[KEEP] > 0
        self.values = {name: value for name, value in self.values.items() if name != KEEP}
        if kept.all():
            return
        self.frame_of = self.frame_of[kept]
        self.values = {name: value[kept] for name, value in self.values.items()}
        self._regions = {c: Region(r.sample_xyxy_px[kept], r.decode_xyxy_px[kept]) for c, r in self._regions.items()}
        self._chips = {c: chips[kept] for c, chips in self._chips.items()}
        self.answers = {r: {n: v[kept] for n, v in raw.items()} for r, raw in self.answers.items()}


def read(block: Block, steps: Sequence[Step], workspace: Workspace, carried: frozenset[str] = frozenset()) -> None:
    """Run the steps on a block, each adding its values to the block's.

    A step whose values are all `carried` (by tracks, NaN where one is new) runs on the faces alone that lack them.
    """
    workspace.ops.answer(block, [s for s in steps if not (s.gives and carried.issuperset(s.gives))])
    for step in steps:
        if not len(block):
            block.values = {**block.values, **empty_values(step.gives)}
            continue
        if step.gives and carried.issuperset(step.gives):
            _fill(block, step, workspace)
            continue
        if step.role in block.answers:
            raw = block.answers[step.role]
        else:
            with workspace.timed("crops", len(block)):
                raw = block.given(step)
            if step.role in workspace.runners:
                with workspace.timed(f"{step.role} network", len(block)):
                    raw = workspace.runners[step.role].infer(raw)
        with workspace.timed("values", len(block)):
            said = heads.DECODERS[step.stage.decode](raw, block, step.stage, step.choice.crop)
            block.values = {**block.values, **said}
            if KEEP in block.values:
                block.drop()


def _fill(block: Block, step: Step, workspace: Workspace) -> None:
    lacking = np.flatnonzero(~np.isfinite(block.values[step.gives[0]].reshape(len(block), -1)).all(axis=1))
    if not len(lacking):
        return
    others = {n: v[lacking] for n, v in block.values.items() if n not in step.gives}
    part = Block(block.frames, block.frame_of[lacking], others, workspace, block.options)
    read(part, (step,), workspace)
    for name in step.gives:
        whole = block.values[name].copy()
        whole[lacking] = part.values[name]
        block.values = {**block.values, name: whole}


def read_faces(
    frames: Sequence[Frame],
    found: Sequence[Values],
    steps: Sequence[Step],
    rect: Crop | None,
    workspace: Workspace,
    options: Options,
    carried: frozenset[str] = frozenset(),
) -> list[FrameResult]:
    """Run the steps on all faces of a batch of frames, `found` holding the finder's values of each, and those `carried` by
    tracks; results by frame."""
    counts = [len(values["scores"]) for values in found]
    frame_of = np.repeat(np.arange(len(frames)), counts)
    whole = found[0] if len(found) == 1 else {n: np.concatenate([values[n] for values in found]) for n in found[0]}
    size = min([workspace.ops.faces_a_run, *(b for b in (_largest(workspace, step) for step in steps) if b)])
    blocks = []
    for start in range(0, max(len(frame_of), 1), size):
        part = slice(start, start + size)
        block = Block(frames, frame_of[part], {n: v[part] for n, v in whole.items()}, workspace, options)
        read(block, steps, workspace, carried)
        blocks.append(block)
    with workspace.timed("values", len(frame_of)):
        return list(_results(frames, blocks, rect))


def _results(frames: Sequence[Frame], blocks: Sequence[Block], rect: Crop | None) -> Iterator[FrameResult]:
    frame_of = np.concatenate([b.frame_of for b in blocks])
    names = [n for n in blocks[0].values if n != KEEP and not VALUES[n].inner]
    values = {name: np.concatenate([b.values[name] for b in blocks]) for name in names}
    boxes = [b.values["boxes_xyxy_px"] if rect is None else b.regions(rect).decode_xyxy_px for b in blocks]
    regions = np.concatenate(boxes)
    for place, frame in enumerate(frames):
        mine = ... if len(frames) == 1 else frame_of == place
        yield FrameResult(
            index=frame.index,
            name=frame.name,
            size_hw=frame.reported_hw,
            facerects_xywh_px=heads.facerects(regions[mine], frame.pad_xy, frame.scale),
            values={name: _in_original(name, value[mine], frame) for name, value in values.items()},
            moment=frame.moment,
        )


def _in_original(name: str, value: F32, frame: Frame) -> F32:
    """Points in pixels of the original; everything else as it is."""
    if not VALUES[name].points or (frame.scale == 1 and not any(frame.pad_xy)):
        return value
    if VALUES[name].depth:
        value = np.concatenate([value[..., :2], value[..., 2:] / np.float32(frame.scale)], axis=-1)
    pairs = value.shape[-1] // 2 * 2  # corners are two points; a depth behind x and y is none
    points = value[..., :pairs].reshape(*value.shape[:-1], pairs // 2, 2)
    original = heads.to_original(points, frame.pad_xy, frame.scale).reshape(*value.shape[:-1], pairs)
    return np.concatenate([original, value[..., pairs:]], axis=-1)


def empty_values(names: Sequence[str]) -> dict[str, F32]:
    """Values of no face: arrays [0, …] of the shapes that the contract names."""
    return {name: np.empty((0, *VALUES[name].shape), np.float32) for name in names}


def _largest(workspace: Workspace, step: Step) -> int | None:
    runner = workspace.runners.get(step.role)
    return None if runner is None else runner.spec.largest_batch
