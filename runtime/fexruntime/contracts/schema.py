"""The shapes of contract rows: frozen, no behaviour beyond look-ups."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One published file. `revision`, `sha256` and `size_bytes` are None where nobody has recorded them yet."""

    repository: str
    filename: str
    hub_filename: str | None = None
    """Name in the repository where it differs from the name in a `--weights` folder."""
    revision: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    packaged: bool = False
    """True if the file comes with fexport itself."""
    older_filenames: tuple[str, ...] = ()
    """Names of earlier layouts of the same weights, read from a folder too."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that the file may have in a `--weights` folder, the preferred one first."""
        hub = (self.hub_filename,) if self.hub_filename else ()
        return (self.filename, *hub, *self.older_filenames)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A graph's input or output. Shape entries are sizes or the names of dynamic axes."""

    name: str
    shape: tuple[int | str, ...]
    meaning: str
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What turns pixels into a network's numbers: (value - mean) / std, after scaling to `value_range`."""

    value_range: tuple[float, float]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    in_graph: bool
    """Whether the graph does it (then its input is `value_range`) or the host."""
    resize: str = "none"
    colour_order: str = "RGB"


@dataclass(frozen=True, slots=True)
class Crop:
    """How a face is cut out. `kind` is "square-pad" (isotropic, reflected outside the frame) or "anisotropic" (zeros)."""

    kind: str
    size: int
    expand: float


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest difference between torch and an artefact that passes verification, for one output, in its task's unit.

    `task` says how the raw difference becomes that unit: "probability" and "value" take it as it is, "degrees" turns
    radians into degrees, "pixels" multiplies fractions of a crop by its side, "relative" divides by the output's
    range, "cosine" is one minus the cosine of the two vectors.
    """

    output: str
    task: str
    limit: float
    columns: tuple[int, ...] | None = None
    """Only these columns of the last axis; None means all."""


@dataclass(frozen=True, slots=True)
class Network:
    """Everything that is fixed about one network: weights, licence, tensors, preprocessing, tolerances."""

    name: str
    title: str
    files: tuple[WeightsFile, ...]
    licence: str
    licence_note: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    preprocessing: Preprocessing
    tolerances: tuple[Tolerance, ...]
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
class AxisMap:
    """Fex columns from raw head outputs: for each column, which raw index and with which sign."""

    columns: tuple[str, ...]
    index: tuple[int, ...]
    sign: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One (pipeline, contract) row: which networks fill which roles, the crop, the axis maps, the Fex columns."""

    name: str
    contract: str
    reference: str
    faces: tuple[str, ...]
    """Networks that may find the faces; the first is the default."""
    roles: tuple[tuple[str, str], ...]
    """(role, network) of the networks that are always built, in the order they run."""
    identity: tuple[str, ...]
    """Networks that may embed the faces; the first is the default."""
    crop: Crop | None
    pose: AxisMap | None
    gaze: AxisMap | None
    columns: tuple[str, ...]
    """Fex columns for images, in py-feat's order."""
    fex_info: tuple[tuple[str, str | None], ...] = ()
    """What py-feat's Fex says of its models (`feat.Fex` metadata)."""
    absent: tuple[str, ...] = ()
    """Outputs of py-feat's detector whose models are not exported: their columns are there and NaN."""
