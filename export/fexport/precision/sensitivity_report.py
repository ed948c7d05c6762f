"""The report of sensitivities: Markdown and HTML, every sentence made from the numbers."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fexport.precision.sensitivity import Cost, Sensitivity
from fexruntime.files import check_ours, replacing
from fexruntime.overlay import MARK

Found = Sequence[tuple[str, Sensitivity, Sequence[str]]]
"""(role, what was found, where each input was from)."""
SHOWN = 20
"""Parts in the table and the plot: the dearest."""


def sentence(found: Sensitivity) -> str:
    """What is proposed for a network, in one line."""
    best = found.proposal
    if best is None:
        return f"{found.network}: no part can be lowered to {found.precision} within its budgets"
    rest = [part for cost in found.parts for part in cost.parts if part not in best.parts]
    keep = f"; keep {', '.join(rest)} in fp32" if rest else ", all of them"
    return (
        f"{found.network}: lower {len(best.parts)} of {len(found.parts)} parts to {found.precision} "
        f"({best.share:.0%} of the multiplications, {best.over_budget:.2f} of the budgets used){keep}"
    )


_TITLE = "What lowering each part costs"


def write(folder: Path, found: Found) -> None:
    """Write report.md, report.html and a plot a network into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    text, page = [], []
    for role, one, names in found:
        picture = _plot(one)
        _replace(folder / f"{role}.png", picture)
        rows = _rows(one, names)
        text += [f"## {one.network} ({role}), {one.precision}", "", sentence(one), "", _about(one), ""]
        text += [f"![cost of each part, and of the cheapest together]({role}.png)", "", *_markdown(rows), ""]
        source = base64.b64encode(picture).decode()
        page += [
            f"<h2>{html.escape(one.network)} ({html.escape(role)}), {one.precision}</h2>",
            f"<p><b>{html.escape(sentence(one))}</b></p><p>{html.escape(_about(one))}</p>",
            f'<img alt="cost of each part, and of the cheapest together" src="data:image/png;base64,{source}">',
            _table(rows),
        ]
    _replace(folder / "report.md", ("\n".join([f"# {_TITLE}", "", *text]) + "\n").encode())
    head = "<!doctype html><meta charset=utf-8><title>"
    head += f"{_TITLE}</title>"
    style = "<style>body{font:16px sans-serif;max-width:70em;margin:2em auto}td,th{padding:.2em .6em;text-align:right}td:first-child,th:first-child{text-align:left}img{max-width:100%}</style>"
    _replace(folder / "report.html", f"{head}{style}<h1>{_TITLE}</h1>{''.join(page)}\n".encode())


def _about(found: Sensitivity) -> str:
    budgets = ", ".join(f"{name} {limit:g}" for name, limit in found.budgets.items())
    left_out = (
        f" Near a tie on {found.near_ties} of them, which are left out of {', '.join(found.tied)}."
        if found.near_ties
        else ""
    )
    return f"Compared with the fp32 graph on {found.faces} inputs.{left_out} Budgets: {budgets}."


def _rows(found: Sensitivity, names: Sequence[str]) -> list[list[str]]:
    head = ["part", "multiplications", "of the budget", "by", "worst on"]
    return [head, *(_row(cost, found, names) for cost in found.parts[:SHOWN])]


def _row(cost: Cost, found: Sensitivity, names: Sequence[str]) -> list[str]:
    gate = max(cost.differences, key=lambda name: cost.differences[name] / max(found.budgets[name], 1e-9))
    worst = names[cost.worst_face] if cost.worst_face < len(names) else "–"
    said = f"{gate} {cost.differences[gate]:.3g}"
    return [", ".join(cost.parts), f"{cost.share:.1%}", f"{cost.over_budget:.2f}", said, worst]


def _markdown(rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _table(rows: list[list[str]]) -> str:
    head, *body = [
        "".join(f"<{t}>{html.escape(c)}</{t}>" for c in row)
        for row, t in zip(rows, ["th"] + ["td"] * len(rows), strict=False)
    ]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in body)}</table>"


def _plot(found: Sensitivity) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = found.parts[:SHOWN][::-1]
    figure = Figure(figsize=(13, 1.5 + 0.3 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    left.barh([", ".join(c.parts) for c in shown], [c.over_budget for c in shown], color="#3b7dd8")
    left.axvline(1.0, color="#c33", lw=1)
    left.set(
        xscale="log", xlabel="difference over its budget (1: just within)", title=f"{found.network}: each part alone"
    )
    front: Any = found.front
    right.plot([100 * c.share for c in front], [max(c.over_budget, 1e-3) for c in front], "o-", color="#3b7dd8")
    right.axhline(1.0, color="#c33", lw=1)
    right.set(
        yscale="log",
        xlabel=f"% of multiplications in {found.precision}",
        ylabel="difference over its budget",
        title="the cheapest parts together",
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": MARK.decode()})
    return buffer.getvalue()


def _replace(path: Path, data: bytes) -> None:
    check_ours(path, MARK, _TITLE.encode())
    with replacing(path) as partial:
        partial.write_bytes(data)
