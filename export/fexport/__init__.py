"""fexport: builds bundles of verified artefacts from published weights (needs torch), and the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from fexruntime.versions import installed

            return installed(["fexport"]).get("fexport", "0+unknown")
        raise AttributeError(f"module 'fexport' has no attribute {name!r}")
