"""The documentation site: each public name has one place in it, and the landing page says what other pages say."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import FunctionType

import pytest

import statevar as sv
from tests.helpers import ROOT, reference_entries
from tests.internals import PUBLIC

DOCS = ROOT / "docs"
INDEX = (DOCS / "index.md").read_text()


def members(cls: type) -> set[str]:
    """The public methods and properties of a class."""
    return {
        name
        for name in dir(cls)
        if not name.startswith("_") and isinstance(inspect.getattr_static(cls, name), FunctionType | property)
    }


def test_the_reference_describes_only_what_is_public() -> None:
    public = {f"{module}.{name}" for module in PUBLIC for name in __import__(module, fromlist=["__all__"]).__all__}
    listed = [each for each in reference_entries() if not each.startswith("statevar.Variable.")]
    assert set(listed) <= public | set(PUBLIC)
    assert len(listed) == len(set(listed))


def test_every_member_of_a_variable_is_in_the_reference() -> None:
    prefix = "statevar.Variable."
    listed = [each.removeprefix(prefix) for each in reference_entries() if each.startswith(prefix)]
    assert sorted(listed) == sorted(members(sv.Variable))


def test_the_landing_page_and_the_readme_begin_with_the_same_lines() -> None:
    readme = (ROOT / "README.md").read_text()
    example, install = (
        re.findall(r"```python\n.*?```", INDEX, re.DOTALL)[0],
        re.findall(r"^pip .*\]'", INDEX, re.MULTILINE),
    )
    assert example in readme
    assert install
    assert all(line in readme for line in install)


def test_the_landing_page_has_no_figure_of_its_own() -> None:
    section = INDEX.partition("## What was measured")[2].partition("\n## ")[0]
    sources = (DOCS / "why.md").read_text() + (DOCS / "performance.md").read_text()
    figures = set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?", section))
    assert {"2323", "993", "1.63"} <= figures
    assert not {each for each in figures if not re.search(rf"(?<![\d.]){re.escape(each)}(?![\d.]*\d)", sources)}


#: Names that pages mention since there are no such.
ABSENT = {"CHANGELOG.md": {"assign_add"}}


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")]), ids=lambda path: path.name)
def test_a_page_names_only_what_there_is(page: Path) -> None:
    text = page.read_text()
    named = set(re.findall(r"(?<![\w.])sv\.([A-Za-z_]\w*)", text))
    assert {name for name in named if not hasattr(sv, name)} == ABSENT.get(page.name, set())
