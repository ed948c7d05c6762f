"""What the fuzzer calls: for each reader of what others made, inputs to begin with, and a check of one input.

A check answers "read" or "refused". Anything else (another exception than those of `FexportError`'s tree, an answer that does not hold
together) is a finding. Nothing here needs the fuzzer, so tests repeat its findings without it.
"""

from __future__ import annotations

import hashlib

from fuzz_targets import archives, journals, manifests, pictures, videos
from fuzz_targets.target import READ, REFUSED, Broken

__all__ = ["READ", "REFUSED", "TARGETS", "Broken", "digest"]

TARGETS = {
    "manifest": manifests.TARGET,
    "journal": journals.TARGET,
    "image": pictures.TARGET,
    "video": videos.TARGET,
    "archive": archives.TARGET,
}


def digest(data: bytes) -> str:
    """A short name for an input."""
    return hashlib.sha256(data).hexdigest()[:12]
