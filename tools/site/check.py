"""A hook of mkdocs that reads the finished site as a browser does, and warns of what a reader would stumble over.

Mkdocs checks the links of the sources. This checks those that the templates, the reference and our hooks have made.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mkdocs.config.defaults import MkDocsConfig

logger = logging.getLogger("mkdocs.hooks.check")

#: Markup that has stayed text: lists and tables without a line before them, prompts, fences, bold, links.
MARKUP = re.compile(r"\n\s*(?:[-*]|\d+\.) |\n\s*\||>>>|```|\*\*[A-Z]|[a-z.]\*\*|\]\(|^#+ |\[\w+\]\[")


class Reader(HTMLParser):
    """Collects from a page what can be linked to, what it links to and loads, and the text of its paragraphs."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.paragraphs: list[str] = []
        self._open = ""  # the element whose text is read: a paragraph or a cell
        self._code = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Notes an element."""
        given = dict(attributes)
        self.ids |= {each for each in (given.get("id"), given.get("name") if tag == "a" else None) if each}
        if tag == "a":
            self.links |= {given.get("href") or ""} - {""}
        elif tag != "link" or given.get("rel") not in ("canonical", "prev", "next"):
            self.loaded |= {given.get("href") or given.get("src") or ""} - {""}
        if tag in ("p", "td", "th"):
            self._open = tag
            self.paragraphs.append("")
        self._code += tag in ("code", "pre")

    def handle_endtag(self, tag: str) -> None:
        """Ends an element."""
        self._open = "" if tag == self._open else self._open
        self._code -= tag in ("code", "pre")

    def handle_data(self, data: str) -> None:
        """Reads text."""
        if self._open:
            self.paragraphs[-1] += "·" if self._code else data


def on_post_build(config: MkDocsConfig) -> None:
    """Warns of each fault of the finished pages; with `--strict` a warning is an error."""
    site = Path(config.site_dir)
    pages = {path: Reader(path.read_text()) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}
    for path, page in pages.items():
        for fault in faults(path, page, pages):
            logger.warning("%s: %s", path.relative_to(site), fault)


def faults(path: Path, page: Reader, pages: dict[Path, Reader]) -> Iterator[str]:
    """What is wrong with a page, in words."""
    for link in sorted(page.loaded | page.links):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            if link in page.loaded:
                yield f"loads {link} from the network"
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if not target.exists():
            yield f"links to {link}, which does not exist"
        elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
            yield f"links to {link}, which has no such place"
    for each in sorted(page.ids):
        if re.match(r"statevar\..*\b_(?!_)", each):
            yield f"describes {each}, which is private"
    for text in page.paragraphs:
        if found := MARKUP.search(text):
            yield f"shows {found[0].strip()!r} as text: {text.strip()[:80]!r}"
