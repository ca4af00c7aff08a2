"""What the site needs beside docs/: pages that stand elsewhere in the repository, and links that leave it.

On GitHub, pages link to each other by their paths in the repository. Here those that stand outside docs/ become pages
below project/; a link to another file of the repository, such as a module, becomes its text. A link to nothing is left
as it is, and fails a strict build.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "RESULTS.md": "project/results.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "recipes/README.md": "project/recipes.md",
    "blsp/assets/README.md": "project/model_cards.md",
    "README.md": "index.md",
}
"""Files of the repository -> pages of the site."""
_SOURCES = {page: source for source, page in PAGES.items() if page != "index.md"}
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that stand outside docs/."""
    for page, source in _SOURCES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Make links of a page those of the site."""
    del config, files
    uri = page.file.src_uri
    return link_within_site(markdown, uri, _SOURCES.get(uri, f"docs/{uri}"))


def link_within_site(markdown: str, page: str, source: str) -> str:
    """The text of a page with links that the site has.

    Args:
        markdown: The text.
        page: Where it stands in the site.
        source: Where it stands in the repository.
    """

    def replaced(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        path = os.path.normpath(Path(source).parent / target)
        if path in PAGES:
            found = PAGES[path]
        elif path.startswith("docs/") and path.endswith((".md", ".svg")):
            found = path.removeprefix("docs/")
        elif (ROOT / path).exists():
            return text
        else:
            return match[0]
        return f"[{text}]({os.path.relpath(found, Path(page).parent)}{anchor})"

    return _LINK.sub(replaced, markdown)
