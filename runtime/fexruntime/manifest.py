"""The manifest of a bundle: one definition, written by the export side and read by the runtime.

Every field is checked when it is read: a manifest that does not hold together is a BundleError that names the field,
never a KeyError later.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, get_args, get_origin

from fexruntime.contracts import Gate, Tensor
from fexruntime.errors import BundleError
from fexruntime.files import file_sha256, stream_sha256

MANIFEST = "manifest.json"
FORMAT = 2
ANY = "any"
"""The target of an artefact that every engine takes which reads its kind."""
T = TypeVar("T")
_ARTICLES = {int: "an"}
MOST_NAME = 255
"""Characters of a file's name in a bundle: what every file system takes."""
SOURCES = ("package", "folder", "hub", "stand-in")


def gate_name(output: str, columns: Iterable[int] | None, task: str) -> str:
    """What a gate is called where a loss is noted."""
    chosen = "" if columns is None else f"[{','.join(map(str, columns))}]"
    return f"{output}{chosen} {task}"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of a bundle: its name in the bundle's folder, the digest and size of its bytes."""

    file: str
    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        path = PurePosixPath(self.file)
        if path.is_absolute() or ".." in path.parts or "\0" in self.file or not path.parts:
            raise ValueError(f"names a file outside the bundle: {self.file!r:.200}")
        if len(self.file) > MOST_NAME:
            raise ValueError(f"names a file by more than {MOST_NAME} characters: {self.file!r:.60}…")

    @classmethod
    def of(cls, name: str, data: bytes) -> FileRecord:
        """The record of a file called `name` with this content."""
        return cls(name, hashlib.sha256(data).hexdigest(), len(data))

    def read(self, folder: Path) -> bytes:
        """The file's bytes, read once; BundleError if they are not the ones that were verified."""
        path = folder / self.file
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _unreadable(path, error) from None
        self._compare(path, hashlib.sha256(data).hexdigest())
        return data

    @contextlib.contextmanager
    def opened(self, folder: Path) -> Iterator[str]:
        """A path to the file for libraries that read paths; BundleError if its bytes are not the ones that were verified.

        Where the system can name an open file, the path is that of the very file which was checked.
        """
        path = folder / self.file
        try:
            file = path.open("rb")
        except OSError as error:
            raise _unreadable(path, error) from None
        with file:
            try:
                digest = stream_sha256(file)
            except OSError as error:
                raise _unreadable(path, error) from None
            self._compare(path, digest)
            same = Path(f"/proc/self/fd/{file.fileno()}")
            yield str(same if same.exists() else path)

    def check(self, folder: Path) -> None:
        """BundleError if the file's bytes are not the ones that were verified. Holds a part of them at a time."""
        path = folder / self.file
        try:
            digest = file_sha256(path)
        except OSError as error:
            raise _unreadable(path, error) from None
        self._compare(path, digest)

    def _compare(self, path: Path, sha256: str) -> None:
        if sha256 != self.sha256:
            raise BundleError(
                f"{str(path)!r} is not the file that was verified: its sha256 differs from the manifest's; "
                "build the bundle again, or restore the file"
            )


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(f"cannot read {str(path)!r}: {error.strerror or error}; build the bundle again")


@dataclass(frozen=True, slots=True)
class Variant:
    """One verified artefact of a network: in which precision, of which kind, for which engine."""

    precision: str
    kind: str
    """"onnx" (a graph), "ncnn" (a text of layers, its weights in `parts`), "arrays" (.npz that NumPy code reads)."""
    target: str
    """`ANY`, or the engine that it was made for ("tensorrt"), which takes it before one for any."""
    model: FileRecord
    canonical: FileRecord
    """A recorded input, and what the verified artefact answered (.npz)."""
    verified_on: tuple[str, ...]
    """Backends that were held to torch when it was built."""
    parts: tuple[FileRecord, ...] = ()
    """Further files of the artefact."""
    plan: FileRecord | None = None
    """Of a lower precision: which node has which type, and why (JSON)."""
    loss: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """What is beyond its gate, and was published all the same: the difference found, by output and task."""

    @property
    def form(self) -> str:
        """Its kind, and whose it is, for a person: "onnx", "onnx for openvino"."""
        return self.kind if self.target == ANY else f"{self.kind} for {self.target}"

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file of it."""
        return (self.model, *self.parts, self.canonical, *(() if self.plan is None else (self.plan,)))

    def limit(self, gate: Gate) -> float:
        """How far this artefact may be from what it was made from: the gate's limit, or the loss that was allowed, and a
        tenth more, since another CPU rounds otherwise.
        """
        return max(gate.limit, 1.1 * self.loss.get(gate_name(gate.output, gate.columns, gate.task), 0.0))


@dataclass(frozen=True, slots=True)
class WeightsRecord:
    """Where one weights file came from. `sha256` and `size_bytes` are None for stand-ins, `seed` for everything else."""

    filename: str
    source: str
    repository: str
    revision: str | None
    sha256: str | None
    size_bytes: int | None
    published: bool
    """Whether its digest is the published one."""
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"has source {self.source!r:.40}, not one of {', '.join(SOURCES)}")
        if (self.source == "stand-in") != (self.sha256 is None):
            raise ValueError("needs a sha256 unless it is a stand-in")


@dataclass(frozen=True, slots=True)
class NetworkRecord:
    """A network of a bundle: what fills a role, and its artefacts."""

    network: str
    title: str
    licence: str
    licence_note: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    variants: tuple[Variant, ...]
    weights: tuple[WeightsRecord, ...]
    passes: Mapping[str, int]
    """Graph rewrites, and in how many places each was done."""
    config: Mapping[str, Any] | None = None
    """Flags of the checkpoint that shaped the graph."""
    not_held: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Targets that were asked for and cannot hold this network, and why."""

    def __post_init__(self) -> None:
        for name in ("inputs", "outputs", "variants", "weights"):
            if not getattr(self, name):
                raise ValueError(f"has no {name}")

    @property
    def precision(self) -> str:
        """What it is run in where nobody asks for another."""
        return self.variants[0].precision

    @property
    def loss(self) -> dict[str, float]:
        """What was published though it is beyond its budget."""
        found: dict[str, float] = {}
        for name, value in (item for v in self.variants for item in v.loss.items()):
            found[name] = max(value, found.get(name, value))
        return found

    @property
    def stand_in(self) -> bool:
        """Whether any weight of this network is made up: its numbers test the arithmetic and mean nothing."""
        return any(w.source == "stand-in" for w in self.weights)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle is. `networks` is by role; a role that maps to None is a stage without a graph."""

    format: int
    fexport: str
    pipeline: str
    contract: str
    contract_sha256: str
    reference: str
    built_with: Mapping[str, str]
    verification: FileRecord
    """Report of the comparison with torch (JSON)."""
    notices: FileRecord
    """Licences of the networks (Markdown)."""
    networks: Mapping[str, NetworkRecord | None]

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file that the bundle is made of, but for the manifest."""
        records = [n for n in self.networks.values() if n is not None]
        variants = [v for n in records for v in n.variants]
        unique = dict.fromkeys((*(f for v in variants for f in v.files), self.verification, self.notices))
        return tuple(unique)

    def as_json(self) -> bytes:
        """The manifest as the bytes of its file."""
        return (json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, value: Any) -> Manifest:
        """Read what `as_json` wrote. Raises BundleError that names the field which is not as it should be."""
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except (UnicodeEncodeError, RecursionError) as error:
            raise BundleError(f"manifest holds text that no file can hold: {error.__class__.__name__}") from None
        return read_as(cls, value, "manifest")


def read_as(kind: type[T], value: Any, where: str) -> T:
    """Plain JSON as a dataclass of this file, every field checked; BundleError names the one that is wrong, after `where`."""
    found: T = _read(kind, value, where)
    return found


def _read(kind: Any, value: Any, where: str) -> Any:
    """`value`, plain JSON, as a `kind`: a dataclass of this file, a tuple, a mapping, a union, a plain type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        kinds = [a for a in arguments if a is not type(None)]
        if len(kinds) == 1:
            return _read(kinds[0], value, where)
        if not isinstance(value, tuple(kinds)) or isinstance(value, bool):
            raise _wrong(where, value, " or ".join(k.__name__ for k in kinds))
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(where, value, "a list")
        return tuple(_read(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise _wrong(where, value, "an object")
        return {key: _read(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value, where)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _wrong(where, value, f"{_ARTICLES.get(kind, 'a')} {kind.__name__}")
    return value


def _read_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(where, value, "an object")
    hints = typing.get_type_hints(kind)
    missing = dataclasses.MISSING
    required = {f.name for f in dataclasses.fields(kind) if f.default is missing and f.default_factory is missing}
    lacking, extra = sorted(required - value.keys()), sorted(value.keys() - hints.keys())
    if lacking or extra:
        said = [f"lacks {', '.join(lacking)}"] if lacking else []
        said += [f"has {', '.join(f'{n!r:.40}' for n in extra[:3])}, which is not of this format"] if extra else []
        raise BundleError(f"{where} {' and '.join(said)}")
    fields = {name: _read(hints[name], item, f"{where}.{name}") for name, item in value.items()}
    try:
        return kind(**fields)
    except ValueError as error:
        raise BundleError(f"{where} {error}") from None


def _wrong(where: str, value: Any, wanted: str) -> BundleError:
    return BundleError(f"{where} is {value!r:.60}, not {wanted}")
