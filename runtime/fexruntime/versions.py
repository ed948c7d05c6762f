"""Which versions of packages are installed here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache


def installed(names: Iterable[str]) -> dict[str, str]:
    """Versions by name, of those distributions that are installed."""
    return {name: version for name in names if (version := _version(name)) is not None}


@cache
def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # a third of this package's import, if it stood above

    try:
        return version(name)
    except PackageNotFoundError:
        return None


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
