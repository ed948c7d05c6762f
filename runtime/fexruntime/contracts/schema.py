"""The shapes of contract rows: frozen, no behaviour beyond look-ups. Every field but titles and meanings is read by code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One published file. `revision`, `sha256` and `size_bytes` are None where nobody has recorded them yet."""

    repository: str
    filename: str
    url: str | None = None
    """Where a person finds it, if it is on no hub: it is only taken from a folder then."""
    hub_filename: str | None = None
    """Name in the repository where it differs from the name in a `--weights` folder."""
    revision: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    packaged: bool = False
    """True if the file comes with fexport itself."""
    others: tuple[WeightsFile, ...] = ()
    """Other files that serve in its place if a folder has them: earlier layouts, earlier versions."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names that this file may have in a `--weights` folder, the preferred one first."""
        return (self.filename, *((self.hub_filename,) if self.hub_filename else ()))

    @property
    def own_folder(self) -> str:
        """Sub-folder of a `--weights` folder that it may lie in: its repository's name."""
        return self.repository.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A graph's input or output. Shape entries are sizes or the names of dynamic axes."""

    name: str
    shape: tuple[int | str, ...]
    meaning: str
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """(value - mean) / std of each RGB channel.

    Networks that read frames are given what the host has preprocessed, of values in 0..255; networks that read face
    crops are given pixels in [0,1] and do it in their graph.
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Resize:
    """The side that a network's graph brings its crops to, and how: "bilinear", or "antialias" (torchvision's)."""

    size: int
    kind: str


@dataclass(frozen=True, slots=True)
class Crop:
    """How a face is cut out: `kind` is a name in `crop.KINDS`; the box is made `expand` times as large, `size` px a side."""

    kind: str
    size: int
    expand: float
    resize: int | None = None
    """What the shorter side is brought to before the centre is cut out, for a kind that does so."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Largest difference between torch and an artefact that passes verification, for one output, in its task's unit.

    `task` says how the raw difference becomes that unit: "probability" and "value" take it as it is, "degrees" turns
    radians into degrees, "pixels" multiplies fractions of a crop by its side, "relative" divides by the output's
    range, "scaled" by the expected value where that is above 1, "cosine" is one minus the cosine of the two vectors,
    "logit" compares the probabilities that two logits mean.
    The tasks of faces that a finder's outputs make together are in `detections`.
    """

    output: str
    task: str
    limit: float
    columns: tuple[int, ...] | None = None
    """Only these columns of the last axis; None means all."""
    by: str = "max"
    """What has to be within the limit: the largest difference ("max"), or all but the largest hundredth ("p99")."""


@dataclass(frozen=True, slots=True)
class Network:
    """Everything that is fixed about one network: weights, licence, tensors, preprocessing."""

    name: str
    title: str
    files: tuple[WeightsFile, ...]
    licence: str
    licence_note: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    preprocessing: Preprocessing = Preprocessing()
    resize: Resize | None = None
    weights_colour_order: str = "RGB"
    """Order in which the published weights read colours; a build turns BGR ones into RGB ones."""
    optional_outputs: tuple[str, ...] = ()
    """Outputs that a checkpoint may lack, as its configuration says."""
    optional_keys: tuple[str, ...] = ()
    """Suffixes of checkpoint keys that may be absent (and are never used)."""
    refused_flags: tuple[str, ...] = ()
    """Flags of a checkpoint's configuration that belong to a later contract."""
    default_flags: tuple[tuple[str, bool], ...] = ()
    """Flags that the reference assumes where a checkpoint's configuration does not say."""
    forced_flags: tuple[tuple[str, bool], ...] = ()
    """Flags that the reference's code fixes, whatever a checkpoint says."""


@dataclass(frozen=True, slots=True)
class Value:
    """Something that a pipeline says of each face: an array [N, *shape] of float32."""

    name: str
    shape: tuple[int, ...]
    meaning: str
    points: bool = False
    """Whether the last axis begins with x and y in pixels: stages give them in the frame that the detector saw, results
    in the original."""
    inner: bool = False
    """Whether it is there for later stages alone: no result has it."""
    depth: bool = False
    """Whether a depth in pixels follows x and y."""


@dataclass(frozen=True, slots=True)
class AxisMap:
    """A value from a head's raw columns: for each column, which raw index and with which sign."""

    value: str
    index: tuple[int, ...]
    sign: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """A network that may fill a stage, and what it is given there.

    `network` None is a function of the host (its decoder alone). `reads` lists its inputs in order: a `Crop` stands for
    chips [N,3,S,S] cut so, a name for a value that the finder or an earlier stage gave. A finder's choice reads frames.
    """

    network: str | None
    reads: tuple[Crop | str, ...] = ()
    called: str | None = None
    """What a caller chooses it by, where that is not the network's name (the reference calls two networks "svm")."""
    decode: str | None = None
    """What reads its outputs, and what it gives: where it is not as the stage says (see `Stage.filled`)."""
    gives: tuple[str, ...] | None = None
    axes: tuple[AxisMap, ...] | None = None
    helpers: tuple[tuple[str, str], ...] = ()
    """(name, network) of further networks that its finder runs; they fill the roles ROLE.NAME (see `Stage.helpers`)."""
    fex_info: tuple[tuple[str, str | None], ...] = ()
    """What py-feat's Fex says of its models where this network fills the stage, beyond the pipeline's."""

    @property
    def name(self) -> str | None:
        """What a caller chooses it by; None for a function of the host."""
        return self.called or self.network

    @property
    def host_inputs(self) -> tuple[str, ...]:
        """Names under which a function of the host is given what it reads: "chips", "chips_2", …; a value's own."""
        crops = [r for r in self.reads if isinstance(r, Crop)]
        chips = {crop: "chips" if k == 1 else f"chips_{k}" for k, crop in enumerate(crops, 1)}
        return tuple(chips[r] if isinstance(r, Crop) else r for r in self.reads)

    @property
    def crop(self) -> Crop | None:
        """The crop that it reads, if any."""
        return next((r for r in self.reads if isinstance(r, Crop)), None)

    @property
    def crop_size(self) -> int:
        """Side in pixels of that crop; 1 where there is none."""
        return 1 if self.crop is None else self.crop.size


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of a pipeline: one of several networks, and how its raw outputs become values."""

    role: str
    choices: tuple[Choice, ...]
    """The first is the default."""
    decode: str
    """A name in `heads.DECODERS` (for a finder, in `finders.FINDERS`)."""
    gives: tuple[str, ...]
    """Names in `VALUES`. A stage that gives "keep" drops the faces where it is 0."""
    axes: tuple[AxisMap, ...] = ()
    title: str = ""
    """What the stage is for, in a few words, for help texts."""
    optional: bool = False
    """Left out unless it is asked for."""

    def choice(self, network: str | None) -> Choice:
        """The choice of that network, by either name; KeyError if the stage has none."""
        for choice in self.choices:
            if network in (choice.network, choice.name):
                return choice
        raise KeyError(network)

    def filled(self, network: str | None) -> Stage:
        """The stage as it is where that network fills it; KeyError if it cannot."""
        choice = self.choice(network)
        return replace(
            self,
            decode=self.decode if choice.decode is None else choice.decode,
            gives=self.gives if choice.gives is None else choice.gives,
            axes=self.axes if choice.axes is None else choice.axes,
        )

    def helpers(self, network: str | None) -> tuple[Stage, ...]:
        """The roles of the further networks that this network's finder runs, as stages with one choice; they give no value."""
        return tuple(
            Stage(f"{self.role}.{name}", (Choice(helper),), self.decode, (), title=self.title)
            for name, helper in self.choice(network).helpers
        )

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the networks that may fill it, the default first."""
        return tuple(c.network for c in self.choices if c.network is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """What callers choose those networks by."""
        return tuple(c.name for c in self.choices if c.name is not None)


@dataclass(frozen=True, slots=True)
class Group:
    """Fex columns that belong together, in py-feat's order, and the value that fills them.

    `planar`: a value [N,K,D] fills all x first, then all y, …; else it is laid out as it is. Columns may be fewer than the
    value has numbers: they show its first ones.
    """

    name: str
    """What a caller asks for it by (`columns=["au"]`)."""
    value: str
    columns: tuple[str, ...]
    planar: bool = False
    dtype: str = "float32"
    """"float32" for what is said of a face; "float64", "int64" and "text" for what is said of its frame and its name."""
    feat: str | None = None
    """Name of the argument of `feat.Fex` that lists these columns."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline: a finder, stages, and the Fex columns that their values fill. One row may serve several contracts."""

    name: str
    contracts: tuple[str, ...]
    title: str
    """What it mirrors, within the contract's reference."""
    finder: Stage
    stages: tuple[Stage, ...]
    """In the order they run; each may be left out."""
    rect: Crop | None
    """The crop that FaceRect shows; None: the finder's box."""
    groups: tuple[Group, ...]
    pitch_up: float = 1.0
    """1.0 where a positive Pitch looks up, -1.0 where it looks down."""
    pose_order: str = "zyx"
    """How its pose's angles are put together, a name in `rotations.ORDERS`; "zyx" is py-feat's."""
    test_region: str = "face"
    """What the published tests of its pose read of a data set's picture: "face", as its finder finds it, or "frame", all
    of the data set's own crop."""
    follow_by: tuple[str, ...] = ()
    """(value, value): the points by which a face of a video can be followed, and the probability that there is one."""
    fex_info: tuple[tuple[str, str | None], ...] = ()
    """What py-feat's Fex says of its models (`feat.Fex` metadata)."""
    fex_models: tuple[tuple[str, str], ...] = ()
    """More of it: (the name there, the role whose choice it names)."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Fex columns for images, in py-feat's order."""
        return tuple(c for g in self.groups for c in g.columns)

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """By value: the columns that it fills."""
        return {g.value: g.columns for g in self.groups}

    def stage(self, role: str) -> Stage:
        """The stage (or finder) of a role; KeyError if there is none."""
        for stage in (self.finder, *self.stages):
            if stage.role == role:
                return stage
        raise KeyError(role)


def without_defaults(row: Any, leave_out: frozenset[str] = frozenset()) -> Any:
    """A contract row as plain values, less fields that have their default and those to leave out: what a digest is made of.

    A field that is added to a table later, with a default that changes nothing, changes no digest.
    """
    from dataclasses import MISSING, fields, is_dataclass

    if is_dataclass(row):
        return {
            f.name: without_defaults(getattr(row, f.name), leave_out)
            for f in fields(row)
            if f.name not in leave_out and (f.default is MISSING or getattr(row, f.name) != f.default)
        }
    if isinstance(row, tuple):
        return [without_defaults(item, leave_out) for item in row]
    return row
