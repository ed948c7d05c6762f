"""Markdown as one HTML page that holds its pictures: nothing is fetched when it is read."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping

_STYLE = """
:root { color-scheme: light dark; --line: #8885; --soft: #8881; --accent: #1f6f8b; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.25; margin: 2.2rem 0 .6rem; }
h1 { margin-top: 0; border-bottom: 3px solid var(--accent); padding-bottom: .4rem; }
h2 { border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; margin: 1rem 0; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; }
td:not(:first-child) { white-space: nowrap; }
tbody tr:nth-child(even) { background: var(--soft); }
th { border-bottom-width: 2px; }
strong { color: var(--accent); }
pre { background: var(--soft); padding: .7rem 1rem; overflow-x: auto; }
code { font-size: .9em; }
img { max-width: 100%; background: #fff; border: 1px solid var(--line); border-radius: 4px; }
"""


def page(markdown: str, title: str, pictures: Mapping[str, bytes]) -> str:
    """The text as a page; `![what](NAME)` becomes the picture of that name (PNG bytes), inside it."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark").enable("table").render(markdown)
    for name, data in pictures.items():
        body = body.replace(
            f'src="{html.escape(name)}"', f'src="data:image/png;base64,{base64.b64encode(data).decode()}"'
        )
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>\n{body}</body></html>\n'
    )
