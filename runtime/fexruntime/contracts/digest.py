"""The meaning of a bundle as a digest: of the rows that its numbers are read by.

A crop, a sign, a mean or a column that changes in the tables changes what an older bundle's numbers mean. So a bundle
records the digest of what it uses, and is refused where the running code's differs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from fexruntime.contracts.pipelines import network_row
from fexruntime.contracts.schema import Pipeline, without_defaults

_WORDS = frozenset(
    {"title", "licence", "licence_note", "files", "meaning", "choices", "stages", "contracts", "fex_info", "feat"}
)
"""Fields that say nothing about numbers, or of which a bundle uses a part."""


def contract_sha256(pipeline: Pipeline, contract: str, networks: Mapping[str, str | None]) -> str:
    """Hex digest of the rows behind a bundle with these networks by role (None: a stage without a graph).

    Titles, licences and weights files are left out, and so are stages and choices that the bundle does not have.
    """
    roles = []
    for stage in (pipeline.finder, *pipeline.stages):
        if stage.role in networks:
            name = networks[stage.role]
            row = None if name is None else without_defaults(network_row(name), _WORDS)
            roles.append([without_defaults(stage, _WORDS), without_defaults(stage.choice(name), _WORDS), row])
    meaning = [contract, without_defaults(pipeline, _WORDS), roles]
    return hashlib.sha256(json.dumps(meaning, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
