"""Names of faces as they come: by embedding, and once a track where faces are tracked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fexruntime.arrays import F32
from fexruntime.columns import Selection
from fexruntime.identity import INCREMENTAL, Gallery, name_identities
from fexruntime.options import Options

REMEMBERED_TRACKS = 4096
"""Tracks whose name is kept; a track that was not seen for so many others has ended."""


def needs_all_faces(selection: Selection, options: Options) -> bool:
    """Whether rows are given names that no face has before all are known."""
    return selection.names_from is not None and options.identity_method != INCREMENTAL


def name_all(options: Options, vectors: F32, tracks: F32 | None) -> list[str | None]:
    """Names of all faces there are, at once: of embeddings [N,D], and of tracks [N] where faces were followed."""
    if tracks is not None and options.identity_method == INCREMENTAL:
        return Namer(options.face_identity_threshold).names(vectors, tracks)
    return name_identities(vectors, options.face_identity_threshold, options.identity_method)


class Namer:
    """Names rows in order; one may be made again from `changes` merged."""

    def __init__(self, threshold: float) -> None:
        self.gallery = Gallery(threshold)
        self._tracks: dict[int, str] = {}

    def names(self, embeddings: F32, tracks: F32 | None = None) -> list[str | None]:
        """Names of rows with embeddings [N,D] (NaN: none) and, where faces are tracked, track numbers [N] (NaN: none)."""
        if tracks is None:
            return self.gallery.names(embeddings)
        return [self._of_track(embeddings[n : n + 1], tracks[n]) for n in range(len(embeddings))]

    def _of_track(self, embedding: F32, track: float) -> str | None:
        if not np.isfinite(track):
            return self.gallery.names(embedding)[0]
        name = self._tracks.pop(int(track), None)
        if name is None:
            name = self.gallery.names(embedding)[0]
        if name is not None:
            self._tracks[int(track)] = name  # the latest at the end
            if len(self._tracks) > REMEMBERED_TRACKS:
                del self._tracks[next(iter(self._tracks))]
        return name

    def changes(self) -> dict[str, Any]:
        """What changed since this was last asked, for JSON: people by number, and the tracks' names."""
        return {"people": self.gallery.changes(), "tracks": {str(k): v for k, v in self._tracks.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `changes`, its people merged over time."""
        self.gallery.restore(state["people"])
        self._tracks = {int(k): v for k, v in state["tracks"].items()}
