"""The manifest of a bundle."""

from __future__ import annotations

import json
import shutil
import zlib

from fexruntime import Detector
from fexruntime.bundle import open_bundle, packaged_path
from fexruntime.errors import BundleError, FexportError
from fexruntime.manifest import MANIFEST, Manifest
from fuzz_targets.target import READ, Broken, Target, mutate_json_text, refusal, working_folder


def _manifests() -> list[bytes]:
    return [(packaged_path(name) / MANIFEST).read_bytes() for name in ("edge", "facemesh")]


def check_manifest(data: bytes) -> str:
    """A bundle with this manifest and the packaged detector's files is opened, or refused; if opened, its files are within it."""
    folder = working_folder() / "bundle"
    if not folder.exists():
        shutil.copytree(packaged_path("edge"), folder)
    (folder / MANIFEST).write_bytes(data)
    try:
        bundle = open_bundle(folder)
    except BundleError as error:
        return refusal(error)
    root = folder.resolve()
    if not all((folder / f.file).resolve().is_relative_to(root) for f in bundle.manifest.files):
        raise Broken("a file outside the bundle")
    if Manifest.from_json(json.loads(bundle.manifest.as_json())) != bundle.manifest:
        raise Broken("a manifest that is another when it is written and read again")
    try:
        bundle.verify_files()
        if zlib.crc32(data) % 16 == 0:  # loading takes as long as a hundred manifests
            Detector(folder, threads=1, cache=False).close()
    except FexportError as error:
        return refusal(error)
    return READ


TARGET = Target(_manifests, check_manifest, mutate_json_text, ("manifest.py", "bundle.py"), 1 << 15)
