"""For the site: links to files of the repository that are no pages become their paths, in words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)#:]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """See mkdocs' event of this name.

    Raises:
        FileNotFoundError: a link leads to a file that is not there.
    """
    docs = Path(config.docs_dir).resolve()
    here = (docs / page.file.src_uri).parent

    def in_words(link: re.Match[str]) -> str:
        target = (here / link[2]).resolve(strict=True)
        return link[0] if target.is_relative_to(docs) else f"{link[1]} (`{target.relative_to(docs.parent)}`)"

    return OUTSIDE.sub(in_words, markdown)
