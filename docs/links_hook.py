"""Of the documentation's site: links that leave docs/ are checked to be there and become the name of the file that they point to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]*)\]\((\.\./[^)#\s]+)(#[^)]*)?\)")
_DOCS = Path(__file__).parent


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A page's text with such links as code; an error for one that points to nothing."""

    def named(link: re.Match[str]) -> str:
        target = (_DOCS / Path(page.file.src_uri).parent / link[2]).resolve()
        if not target.exists():
            raise ValueError(f"{page.file.src_uri} links to {link[2]}, which is not there")
        return f"{link[1]} (`{target.relative_to(_DOCS.parent)}`)"

    return _OUTSIDE.sub(named, markdown)
