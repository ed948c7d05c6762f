"""The tree of errors: what happened, with which value, and what mends it."""

from __future__ import annotations

from fexruntime.versions import with_packages


class FexportError(Exception):
    """Base of every error that fexport raises on purpose; its message is one clear sentence for the user."""


def one_line(error: Exception, line: int = 0) -> str:
    """One line of what another library said, the first unless told; its type where it said nothing."""
    said = str(error).strip()
    return said.splitlines()[line][:300] if said else type(error).__name__


def quoted(text: object, most: int = 200) -> str:
    """One line of at most so many characters, of what somebody else wrote into a file (a manifest, a journal) and may be anything."""
    return "".join(c if c.isprintable() else " " for c in str(text))[:most]


class InputError(FexportError):
    """An image, array, box or option given by the caller cannot be used."""


class CutOffError(InputError):
    """A video ends before its end, or parts of it cannot be decoded: what could be read was given."""


class ClosedError(FexportError):
    """A detector was used after it was closed: a fault of the program, not of an input."""


class BundleError(FexportError):
    """A bundle is missing, incomplete, changed, or not made for this version."""


class EnvironmentMissingError(FexportError):
    """A package, provider or device that was asked for is not available here.

    An extra of fexport in the message becomes the packages that it stands for.
    """

    def __init__(self, message: str) -> None:
        super().__init__(with_packages(message))


class InferenceError(FexportError):
    """A network could not be run on what it was given: most often there was not enough memory for it."""


class OutOfMemoryError(InferenceError):
    """There was not enough memory to read an input, or to run on it."""


def is_short_of_memory(error: BaseException) -> bool:
    """Whether an error is for want of memory, as far as engines and libraries say so."""
    words = str(error).lower()
    known = ("bad_alloc", "insufficient memory", "failed to allocate")
    return isinstance(error, (MemoryError, OutOfMemoryError)) or any(w in words for w in known)


class CheckpointError(FexportError):
    """A weights file is missing, unreadable, or not what its contract says."""


class VerificationError(FexportError):
    """An artefact does not answer what the network it was made from answers."""


class StandInWarning(UserWarning):
    """A bundle runs on made-up weights: what it answers means nothing."""


class OutputError(FexportError):
    """A result cannot be written where it was asked for."""
