"""Detector: read frames, find faces, walk them through the stages, hand over.

The stages, each in its own file: `sources` (pixels), `finders` (faces), `faces` (the walk: `crop`, the networks, `heads`),
`identity` (names), `fex` (rows).
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from fexruntime import finders
from fexruntime.arrays import F32
from fexruntime.backends.base import CPU, Place
from fexruntime.bundle import PACKAGED, Bundle, open_bundle, packaged_path
from fexruntime.columns import Selection, select
from fexruntime.errors import FexportError, InputError, StandInWarning
from fexruntime.faces import needed, read_faces, steps_of
from fexruntime.fex import Fex, Identify, assemble, selection_of
from fexruntime.live import Live, LiveSource
from fexruntime.loading import PlaceFields, failed, is_the_frames, load, place_of, tell, with_frames, workspace_of
from fexruntime.naming import name_all
from fexruntime.options import Boxes, GivenBoxes, OptionFields, Options, checked_boxes, options_of
from fexruntime.provenance import provenance
from fexruntime.results import FrameResult
from fexruntime.sources.frame import Frame
from fexruntime.sources.given import Inputs
from fexruntime.sources.inputs import Frames, Position
from fexruntime.sources.limits import bound, check_pixels
from fexruntime.tuning import resolved
from fexruntime.walk import Finding, Walk, tracker_of
from fexruntime.workspace import Observer, Workspaces

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fexruntime.landmark_track import LandmarkTracker
    from fexruntime.track import Tracker


class Detector:
    """A bundle, loaded and ready. Answers what py-feat's Detectorv2 (or Detectorv1) answers, without torch.

    `bundle` is a folder, a `Bundle`, a name of `bundle.PACKAGED`, or None for the packaged face detector ("edge"). `place` says where and how it
    runs; its fields may be given as keywords instead (`Detector("bundle", threads=2)`).

    Threads may share a detector: as many calls run side by side as there are `workspaces` (buffers of their own over the
    same loaded networks), the others wait. `observe` is called with (stage, seconds, items) after each run; what it raises
    reaches the caller. `max_pixels` bounds what a frame may have, from whatever it comes (default: FEXPORT_MAX_PIXELS, else 64
    million): a larger one is an InputError. A detector can be pickled, by its bundle's folder and its place (`observe` is left behind); make or
    unpickle it after a fork, not before.

    Raises BundleError, EnvironmentMissingError or InputError with what to do about it.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle | None = None,
        place: Place | None = None,
        *,
        workspaces: int = 1,
        observe: Observer | None = None,
        max_pixels: int | None = None,
        **fields_of_place: Unpack[PlaceFields],
    ) -> None:
        self.max_pixels = bound(max_pixels)
        self.place = place_of(place, fields_of_place)
        if isinstance(workspaces, bool) or not isinstance(workspaces, int) or workspaces < 1:
            raise InputError(f"workspaces must be a whole number of 1 or more, not {workspaces!r}")
        self.bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        self.pipeline = self.bundle.pipeline
        self._finder, self._steps = steps_of(self.bundle)
        self.place.check_roles(self.bundle.networks)
        running = resolved(self.bundle, self.place)
        if self.bundle.stand_ins:
            names = ", ".join(self.bundle.stand_ins)
            warnings.warn(f"stand-in weights in {names}: what they answer means nothing", StandInWarning, stacklevel=2)
        began = time.perf_counter()
        self._networks = load(self.bundle, running)
        tell(self.bundle, self.describe(), time.perf_counter() - began)
        made = [workspace_of(self._networks, self._finder, self._steps, running) for _ in range(workspaces)]
        self._workspaces = Workspaces(made)
        self._observe = observe
        self._selected: tuple[tuple[tuple[str, ...] | None, bool], Selection] = (
            (None, False),
            select(self.pipeline, None),
        )

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., Detector], tuple[Any, ...]]:
        self._workspaces.check_open()
        # another machine has the packaged ones elsewhere
        named = next((name for name in PACKAGED if self.bundle.path == packaged_path(name)), None)
        bundle = named or os.path.abspath(self.bundle.path)
        return _made_again, (bundle, self.place, len(self._workspaces), self.max_pixels)

    def close(self) -> None:
        """Release the networks and buffers, once the calls that are under way are done."""
        for workspace in self._workspaces.close():
            for runner in workspace.runners.values():
                runner.close()
            workspace.ops.close()
        for network in self._networks.values():
            network.close()
        self._networks = {}

    def describe(self) -> dict[str, dict[str, Any]]:
        """For each role, the provider, device, precision and threads really in use, whether its weights are made up, and the
        loss of precision beyond its budget that the bundle's builder allowed ("loss", by output and unit; only where there is one).
        """
        records = {role: self.bundle.networks[role].record for role in self._networks}
        return {
            role: {"stand_in": records[role].stand_in, **network.describe()}
            | ({"loss": records[role].loss} if records[role].loss else {})
            for role, network in self._networks.items()
        }

    def warmup(self, height: int = 480, width: int = 640, faces: int = 1) -> None:
        """Run everything once, for a frame of that size and that number of faces, so that no real call pays for set-up."""
        frame = Frame(np.full((height, width, 3), 127, np.uint8), 0, "warm-up")
        self.run([frame])
        box = np.array([width * 0.25, height * 0.25, width * 0.75, height * 0.75], np.float32)
        self.run([frame], boxes=[np.tile(box, (faces, 1))])

    def detect(self, inputs: Inputs, *, boxes: Boxes | None = None, **options: Unpack[OptionFields]) -> Fex:
        """Fex rows of all faces of all inputs, in order; within a frame the best score first.

        - `inputs`: path, folder, encoded bytes, file object, PIL image, array [H,W,3] or [N,H,W,3] (uint8 RGB), torch
          tensor [3,H,W] or [B,3,H,W], or an iterable of these.
        - `boxes`: faces that the caller knows, as corners (x1, y1, x2, y2) in pixels of the frame that the detector would
          see: [N,4] for one frame, or a list of one such array for each frame. Nothing is detected then.
        - `options`: see `Options`.

        Raises InputError for inputs or options that cannot be used, InferenceError if a network could not be run.
        """
        chosen = options_of(options)
        walk = self.walk(inputs, chosen, boxes=boxes, rows_only=True)
        results = (result for batch in walk.batches() for _, result in batch)
        return self._table(results, chosen, placeholder_rows=boxes is None)

    def stream(
        self,
        inputs: Inputs,
        *,
        boxes: Boxes | None = None,
        on_bad: Callable[[FexportError], None] | None = None,
        rows_only: bool = False,
        **options: Unpack[OptionFields],
    ) -> Iterator[FrameResult]:
        """Results of each frame as arrays, as they come; inputs, boxes and options as in `detect`.

        `on_bad` is called with the error of an input that cannot be read or run, which is then passed over: its running
        number and its boxes are left out. Without it, the error is raised. Options are checked at once, inputs as they come.
        `rows_only`: values that no row of `to_fex` has (the finder's points) are not computed, and not in the results.
        """
        walk = self.walk(inputs, options_of(options), boxes=boxes, on_bad=on_bad, rows_only=rows_only)
        return (result for batch in walk.batches() for _, result in batch)

    def live(self, source: LiveSource, *, reconnects: int | None = None, **options: Unpack[OptionFields]) -> Live:
        """Results of a webcam (its index), a stream's address, or an iterable of arrays, at its newest frame (see `Live`).

        Raises InputError for options that have no meaning there; a source that cannot be opened is said when it is iterated.
        """
        chosen = options_of(options)
        selection = self._selection(chosen)
        self._workspaces.check_open()
        live = Live(source, chosen, reconnects, self.max_pixels)
        tracker = self._tracker(chosen, selection)
        read = partial(self._run, also=frozenset() if tracker is None else tracker.reads)
        return live.through(Walk(live.frames(), chosen, read, tracker=tracker))

    def walk(
        self,
        inputs: Inputs,
        options: Options,
        *,
        boxes: Boxes | None = None,
        on_bad: Callable[[FexportError], None] | None = None,
        after: Position | None = None,
        rows_only: bool = False,
    ) -> Walk:
        """What `stream` goes through, with the frames themselves, batch by batch; `after`: from behind that frame on."""
        tracker = self._tracker(options, self._selection(options))
        self._workspaces.check_open()
        given = None if boxes is None else GivenBoxes(boxes)
        own = options.batch_size > 1
        on_gpu = self.place.pixels != CPU
        frames = Frames(inputs, options, on_bad, own=own, after=after, max_pixels=self.max_pixels, on_gpu=on_gpu)
        read = partial(self._run, rows_only=rows_only, also=frozenset() if tracker is None else tracker.reads)
        return Walk(frames, options, read, given, on_bad, tracker)

    def _tracker(self, options: Options, selection: Selection) -> Tracker | LandmarkTracker | None:
        carry = [selection.names_from] if selection.names_from is not None else []
        return tracker_of(self.pipeline, self._finder.gives, options, carry)

    def run(
        self,
        frames: Sequence[Frame],
        options: Options | None = None,
        boxes: Sequence[F32] | None = None,
        *,
        rows_only: bool = False,
    ) -> list[FrameResult]:
        """Results of frames that were read already, in one batch: the stateless entry that services call.

        `boxes` [N,4] of each frame replace finding; `rows_only` as in `stream`. Raises InferenceError, naming the frames, if a
        network could not be run on them.
        """
        return self._run(frames, options or Options(), boxes, None, rows_only)

    def _run(
        self,
        frames: Sequence[Frame],
        chosen: Options,
        boxes: Sequence[F32] | None,
        finding: Finding | None,
        rows_only: bool = False,
        also: frozenset[str] = frozenset(),
    ) -> list[FrameResult]:
        if not frames:
            return []
        for frame in frames:
            if not isinstance(frame, Frame):
                raise InputError(
                    f"run takes Frame objects, not a {type(frame).__name__}: give Frame(rgb_u8, index, name), or use detect"
                )
            check_pixels(frame.rgb_u8.shape[1::-1], repr(frame.name), self.max_pixels)
        if boxes is not None and len(boxes) != len(frames):
            raise InputError(f"boxes were given for {len(boxes)} frames, but there are {len(frames)}")
        if chosen.region == "frame":
            if boxes is not None:
                raise InputError("boxes and region='frame' exclude each other: give one of them")
            boxes = [finders.whole(frame) for frame in frames]
        wanted = self._selection(chosen).values | also
        steps = needed(self._steps, wanted, chosen)
        finder = finders.reduced(self._finder, steps, wanted) if rows_only else self._finder
        with self._workspaces.lent() as workspace:
            find = workspace.ops.finders.get(finder.stage.decode) or finders.FINDERS[finder.stage.decode]
            try:
                # what follows or smooths boxes reads other faces than those that are found: nothing is read ahead then
                workspace.ops.begin(frames, steps if boxes is None and finding is None else ())
                if boxes is not None:
                    found = finders.best([finders.given(finder, checked_boxes(b)) for b in boxes], chosen)
                else:

                    def looked(some: Sequence[Frame]) -> list[dict[str, F32]]:
                        return finders.best(find(finder, some, chosen, workspace), chosen)

                    found = looked(frames) if finding is None else finding(frames, looked)
                carried = frozenset(found[0]) - {*self._finder.gives}
                results = read_faces(frames, found, steps, self.pipeline.rect, workspace, chosen, carried)
                if chosen.columns is not None:
                    results = [_less(r, wanted | {*finder.gives, "track"}) for r in results]
            except Exception as error:
                if not is_the_frames(error):
                    raise
                raise failed(error)(with_frames(error, frames)) from error
            finally:
                notes = workspace.end_of_call()
        if self._observe is not None:
            for note in notes:
                self._observe(*note)
        return results

    def to_fex(
        self, results: Iterable[FrameResult], *, placeholder_rows: bool = True, **options: Unpack[OptionFields]
    ) -> Fex:
        """Fex rows of what `stream` gave with the same options. `placeholder_rows`: a frame without a face has a NaN row."""
        return self._table(results, options_of(options), placeholder_rows)

    def _table(self, results: Iterable[FrameResult], chosen: Options, placeholder_rows: bool) -> Fex:
        listed = list(results)
        selection = selection_of(self.pipeline, chosen.columns, listed)
        return self.assemble(listed, selection, partial(name_all, chosen), placeholder_rows)

    def assemble(
        self, results: Iterable[FrameResult], selection: Selection, identify: Identify, placeholder_rows: bool = True
    ) -> Fex:
        """Fex rows of results with given columns, rows named by `identify` (see `fex.assemble`)."""
        identity = next((n for n in self.bundle.networks.values() if selection.names_from in n.stage.gives), None)
        return assemble(
            self.pipeline,
            self.bundle.contract,
            selection,
            results,
            identify,
            identity.row.name if identity else None,
            placeholder_rows,
            {name: self._called(role) for name, role in self.pipeline.fex_models if role in self.bundle.networks},
            self.about,
        )

    @cached_property
    def about(self) -> dict[str, Any]:
        """Where its numbers come from, as `Fex.info` has it: contract, bundle, weights, versions; asking the installed packages' versions takes a tenth of a detector's loading."""
        return provenance(self.bundle)

    def _called(self, role: str) -> str:
        """What fills a role, by the name that callers choose it by."""
        network = self.bundle.networks[role]
        return network.choice.name or network.row.name

    def _selection(self, options: Options) -> Selection:
        """The columns asked for; InputError if this bundle cannot fill one that was asked for by name."""
        asked = options.columns if options.columns is None else tuple(options.columns), options.track
        known, kept = self._selected  # at once: another thread may ask for others meanwhile
        if asked == known:  # asked in every frame
            return kept
        selection = select(self.pipeline, options.columns, track=options.track)
        if options.columns is not None:
            given = {v for step in (self._finder, *self._steps) for v in step.gives}
            lacking = sorted(selection.values - given)
            if lacking:
                raise InputError(
                    f"this bundle was built without what gives {', '.join(lacking)}: leave those columns out"
                )
        self._selected = asked, selection
        return selection


def _made_again(bundle: str | None, place: Place, workspaces: int, max_pixels: int) -> Detector:
    return Detector(bundle, place, workspaces=workspaces, max_pixels=max_pixels)


def _less(result: FrameResult, wanted: frozenset[str]) -> FrameResult:
    """A result with the values that were asked for, of those that a network gave along."""
    return replace(result, values={name: value for name, value in result.values.items() if name in wanted})
