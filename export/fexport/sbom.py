"""What a bundle contains, as a CycloneDX 1.6 document: networks with licences, weights and artefacts with digests."""

from __future__ import annotations

import json
import uuid
from typing import Any

from fexruntime.bundle import Bundle, BundleNetwork
from fexruntime.contracts import reference_of
from fexruntime.manifest import FileRecord, WeightsRecord

SPEC_VERSION = "1.6"
_NAMESPACE = uuid.UUID("7b6f0d46-6d2c-5a57-9a51-0f7d3d2e7f10")


def cyclonedx(bundle: Bundle) -> dict[str, Any]:
    """The document, the same for the same bundle: its serial number is made from the manifest, and it has no time."""
    manifest = bundle.manifest
    root = {
        "type": "machine-learning-model",
        "bom-ref": "bundle",
        "name": f"{manifest.pipeline} {manifest.contract}",
        "version": manifest.contract_sha256[:12],
        "description": f"held to {reference_of(bundle.pipeline, bundle.contract)}",
        "properties": [_property(f"built_with:{name}", v) for name, v in manifest.built_with.items()],
    }
    components = [c for role, network in bundle.networks.items() for c in _network(role, network)]
    reports = [_file(f"file:{f.file}", f) for f in (manifest.verification, manifest.notices)]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, manifest.as_json().decode())}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "fexport", "version": manifest.fexport}]},
            "component": root,
        },
        "components": [*components, *reports],
        "dependencies": [
            {"ref": "bundle", "dependsOn": [f"network:{role}" for role in bundle.networks]},
            *({"ref": f"network:{role}", "dependsOn": _parts(role, n)} for role, n in bundle.networks.items()),
        ],
    }


def as_text(bundle: Bundle) -> str:
    """`cyclonedx` as the text of a file."""
    return json.dumps(cyclonedx(bundle), indent=1, ensure_ascii=False) + "\n"


def _artefacts(network: BundleNetwork) -> list[FileRecord]:
    return list(dict.fromkeys(f for v in network.record.variants for f in (v.model, *v.parts, v.canonical)))


def _parts(role: str, network: BundleNetwork) -> list[str]:
    return [f"weights:{role}:{w.filename}" for w in network.record.weights] + [
        f"file:{role}:{f.file}" for f in _artefacts(network)
    ]


def _network(role: str, network: BundleNetwork) -> list[dict[str, Any]]:
    record = network.record
    model = {
        "type": "machine-learning-model",
        "bom-ref": f"network:{role}",
        "name": record.network,
        "description": network.row.title,
        "licenses": [{"license": {"name": record.licence}}],
        "properties": [
            _property("role", role),
            _property("licence_note", record.licence_note),
            _property("stand_in", str(record.stand_in).lower()),
            *(_property("rewrite", f"{name} x{count}") for name, count in record.passes.items()),
        ],
    }
    weights = [_weights(role, w) for w in record.weights]
    return [model, *weights, *(_file(f"file:{role}:{f.file}", f) for f in _artefacts(network))]


def _weights(role: str, record: WeightsRecord) -> dict[str, Any]:
    said: dict[str, Any] = {
        "type": "data",
        "bom-ref": f"weights:{role}:{record.filename}",
        "name": record.filename,
        "properties": [
            _property("source", record.source),
            _property("published", str(record.published).lower()),
        ],
    }
    if record.repository:
        said["group"] = record.repository
    if record.revision:
        said["version"] = record.revision
    if record.sha256:
        said["hashes"] = [{"alg": "SHA-256", "content": record.sha256}]
    return said


def _file(ref: str, record: FileRecord) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": ref,
        "name": record.file,
        "hashes": [{"alg": "SHA-256", "content": record.sha256}],
        "properties": [_property("size_bytes", str(record.size_bytes))],
    }


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": f"fexport:{name}", "value": value}
