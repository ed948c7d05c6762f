"""Text is UTF-8 wherever it is read or written: without a name for it, Python takes the locale's, which differs between machines.

Ruff's rule for this (PLW1514) sees what it knows to be a `Path`, and nothing of `subprocess`; this looks at every call of such a name.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("runtime", "export", "calibration", "benchmarks", "examples", "tests")
MODE = re.compile(r"[rwax]t?\+?")


def _is_text(argument):
    return isinstance(argument, ast.Constant) and isinstance(argument.value, str) and MODE.fullmatch(argument.value)


def locale_bound(source):
    """Lines of calls that take the locale's encoding."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = {k.arg: k.value for k in node.keywords}
        if "encoding" in given:
            continue
        if name in ("run", "Popen", "check_output", "check_call"):
            found = any(getattr(given.get(n), "value", False) is True for n in ("text", "universal_newlines"))
        elif name == "read_text":
            found = not node.args
        elif name == "write_text":
            found = len(node.args) == 1
        elif isinstance(node.func, ast.Name) and name == "open":
            found = len(node.args) == 1 or _is_text(node.args[1])
        elif name == "fdopen":
            found = any(map(_is_text, node.args))
        else:  # `tarfile.open(path, "w")` and its like have the mode second
            found = name == "open" and any(map(_is_text, node.args[:1]))
        if found:
            yield node.lineno


@pytest.mark.parametrize(
    "text",
    [
        "p.read_text()",
        "p.write_text(x)",
        "open(p)",
        "open(p, 'w')",
        "p.open('r')",
        "os.fdopen(1, 'w')",
        "run(x, text=True)",
    ],
)
def test_a_call_that_names_none_is_found(text):
    assert list(locale_bound(text)) == [1]
    assert list(locale_bound(f"{text[:-1]}{', ' * (text[-2] != '(')}encoding='utf-8')")) == []


@pytest.mark.parametrize(
    "text",
    ["open(p, 'rb')", "p.open('wb')", "zipfile.ZipFile(p)", "tarfile.open(p, 'w')", "run(x)", "a.run(b, text=t)"],
)
def test_bytes_have_none(text):
    assert list(locale_bound(text)) == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_text_is_utf8(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    assert [f"{f.relative_to(ROOT)}:{n}" for f in files for n in locale_bound(f.read_text(encoding="utf-8"))] == []
