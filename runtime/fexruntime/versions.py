"""Which versions of packages are installed here."""

from __future__ import annotations

import re
from collections.abc import Iterable


def installed(names: Iterable[str]) -> dict[str, str]:
    """Versions by name, of those distributions that are installed."""
    from importlib.metadata import PackageNotFoundError, version  # a third of this package's import, if it stood above

    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def with_packages(text: str) -> str:
    """Text in which `'fexport[EXTRA]'` is the extra's packages: they can be installed wherever fexport itself came from."""
    return re.sub(r"'fexport\[(\w+)\]'", lambda m: " ".join(_packages(m[1])) or m[0], text)


def _packages(extra: str) -> list[str]:
    from importlib.metadata import PackageNotFoundError, requires

    try:
        lines = requires("fexport") or []
    except PackageNotFoundError:
        return []
    of_extra = re.compile(rf"""extra\s*==\s*['"]{extra}['"]""")
    needs = [line.partition(";")[0].strip() for line in lines if of_extra.search(line)]
    return [f"'{need}'" for need in needs if not need.startswith("fexport")]
