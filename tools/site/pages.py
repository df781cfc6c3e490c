"""Hooks of mkdocs: what makes a site of files that are written for a reader of the repository.

- A page of the navigation may be a pattern: it stands for the pages that no other line names.
- A file of the repository to which a page links (`../examples/digits.py`) becomes a page too.
- A public name in backticks (`sv.save`) gets a link to the reference.
- An example with prompts is coloured as what it is.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from html import escape, unescape
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DOCS = "docs/"
#: Files beside `docs` that are pages of the navigation.
IN_NAVIGATION = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "README.md": "index.md"}
#: Pages that need the width of what would stand beside them.
HIDDEN = {"docs/index.md": ["navigation", "toc"], "docs/migrating.md": ["navigation"]}
LANGUAGES = {".py": "python", ".toml": "toml", ".sh": "bash"}

LINK = re.compile(r"\]\((?!\w+:|#|<)([^)\s#]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^`{3,}.*?^`{3,}$)", re.MULTILINE | re.DOTALL)
PROMPTS = re.compile(r"^(`{3,})python\n(?=>>> )", re.MULTILINE)
EXAMPLE = re.compile(r'(<div class="language-(?:pycon|console) highlight")(>.*?</code>)', re.DOTALL)
PROMPTED = re.compile(r"(?:>>>|\.\.\.|\$)(?: |$)(.*)")
#: A name of ours, or one call, as code, that is no link already.
NAME = re.compile(r"(?<![`\[])`((?:sv|statevar)((?:\.\w+)+)(?:\([^`]*\))?)`(?![`\]])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files of the repository that pages link to, and completes the navigation."""
    pages = [file for file in files if file.is_documentation_page()]
    waiting = {source_of(page) for page in pages} | (IN_NAVIGATION.keys() - {"README.md"})
    done: set[str] = set()
    while waiting:
        source = waiting.pop()
        done.add(source)
        if not source.startswith(DOCS):
            files.append(page_of(source, config))
        if source.endswith(".md"):
            waiting |= set(linked_files((ROOT / source).read_text(), source)) - done - IN_NAVIGATION.keys()
    config.nav = with_patterns(config.nav, {file.src_uri for file in files if file.inclusion.is_in_nav()})
    return files


def source_of(file: File) -> str:
    """Where a page comes from, in the repository."""
    return str(file.generated_from) if hasattr(file, "generated_from") else DOCS + str(file.src_uri)


def uri_of(source: str) -> str:
    """The page of a file or folder of the repository."""
    if source in IN_NAVIGATION:
        return IN_NAVIGATION[source]
    return source.removeprefix(DOCS) if source.startswith(DOCS) else f"repository/{source.removesuffix('.md')}.md"


def page_of(source: str, config: MkDocsConfig) -> File:
    """A page with a file or folder of the repository."""
    path = ROOT / source
    if source.endswith(".md"):
        content = path.read_text()
    elif path.is_dir():
        content = f"# {source}\n\n" + "".join(
            f"- `{each.name}`: {summary(each)}\n" for each in sorted(path.glob("*.py"))
        )
    else:
        content = f"# {source}\n\n`````{LANGUAGES.get(path.suffix, 'text')}\n{path.read_text()}`````\n"
    file = File.generated(config, uri_of(source), content=content)
    file.generated_from = source
    file.inclusion = InclusionLevel.INCLUDED if source in IN_NAVIGATION else InclusionLevel.NOT_IN_NAV
    return file


def summary(path: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """The text with a change made to all of it but the fenced code."""
    return "".join(part if part.startswith("```") else change(part) for part in FENCE.split(markdown))


def linked_files(markdown: str, source: str) -> Iterator[str]:
    """The files of the repository outside of `docs` to which a page links."""
    for match in LINK.finditer(FENCE.sub("", markdown)):
        target = resolved(match[1], source)
        if not target.startswith((DOCS, "..")) and (ROOT / target).exists():
            yield target


def resolved(target: str, source: str) -> str:
    """Where in the repository a link of a page leads."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links led to pages, with links from names, and its examples coloured."""
    source = source_of(page.file)
    folder = posixpath.dirname(page.file.src_uri) or "."

    def led(match: re.Match[str]) -> str:
        target = uri_of(resolved(match[1], source))
        if files.get_file_from_path(target) is None:
            return match[0]  # mkdocs says so, with the link as it is written
        return f"]({posixpath.relpath(target, folder)}{match[2] or ''})"

    def changed(text: str) -> str:
        return LINK.sub(led, NAME.sub(r'<autoref identifier="statevar\2" optional>`\1`</autoref>', text))

    if source in HIDDEN:
        page.meta["hide"] = HIDDEN[source]
    elif uri_of(source).startswith("repository/"):
        page.meta |= {"hide": ["navigation", "toc"], "search": {"exclude": True}}
    return PROMPTS.sub(r"\1pycon\n", outside_code(markdown, changed))


def on_page_content(html: str, **_: object) -> str:
    """The page with examples that are copied as a program: without prompts and results."""

    def copyable(match: re.Match[str]) -> str:
        lines = unescape(re.sub(r"<[^>]+>", "", match[0])).splitlines()
        code = "\n".join(found[1] for line in lines if (found := PROMPTED.match(line)))
        return f'{match[1]} data-copy="{escape(code)}"{match[2]}' if code else match[0]

    return EXAMPLE.sub(copyable, html)


def with_patterns(nav: Any, uris: set[str]) -> Any:
    """The navigation with the pages that its patterns stand for, and without the sections that have none."""
    named = set(lines_of(nav))

    def completed(node: Any) -> Iterator[Any]:
        if isinstance(node, dict):
            ((title, value),) = node.items()
            inner = [each for part in (value if isinstance(value, list) else [value]) for each in completed(part)]
            if inner:
                yield {title: inner[0] if inner == [value] else inner}
        elif "*" in node:
            found = (uri for uri in uris - named if fnmatch(uri, node) and uri.count("/") == node.count("/"))
            yield from sorted(found, key=lambda uri: (not uri.endswith("/index.md"), uri))
        else:
            yield node

    return [part for each in nav for part in completed(each)]


def lines_of(nav: Any) -> Iterator[str]:
    """The pages that a navigation names."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict | list):
        for each in nav.values() if isinstance(nav, dict) else nav:
            yield from lines_of(each)
