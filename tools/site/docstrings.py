"""Makes Markdown for the site of our docstrings: fenced examples, and links from names in backticks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from textwrap import dedent

import griffe

__all__ = ["Docstrings"]

#: A name in single backticks, which is how our docstrings refer to things of ours.
NAME = re.compile(r"(?<!`)`([A-Za-z_][\w.]*)`(?!`)")
LITERAL = re.compile(r"\s*(?:::|\.\. code-block:: (\w+))$")


class Docstrings(griffe.Extension):  # type: ignore[misc]  # the tests' environment has no griffe
    """Rewrites every docstring of the package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        """Griffe calls this for a package whose sources it has read."""
        for each in everything_in(pkg):
            if each.is_attribute and each.docstring is None and (text := comment_of(each)):
                each.docstring = griffe.Docstring(text, parent=each)
            if each.is_module:
                with_errors(each, pkg["errors"])
            if each.docstring is not None:
                each.docstring.value = linked(fenced(each.docstring.value), each)


def everything_in(obj: griffe.Object) -> Iterator[griffe.Object]:
    """The object and all that is defined in it; an alias is visited where its target is defined."""
    yield obj
    for member in obj.members.values():
        if not member.is_alias:
            yield from everything_in(member)


def comment_of(attribute: griffe.Attribute) -> str:
    """The comment of an attribute, in the lines above it that begin with ``#:``."""
    above = attribute.lines_collection[attribute.filepath][: attribute.lineno - 1]
    lines: list[str] = []
    while above and (line := above.pop().strip()).startswith("#:"):
        lines.insert(0, line.removeprefix("#:").strip())
    return "\n".join(lines)


def with_errors(module: griffe.Module, errors: griffe.Module) -> None:
    """Lets a module know every error of ours, as its docstrings do, which name those that it does not import too."""
    for name in errors.members.keys() - module.members.keys():
        if name.endswith(("Error", "Warning")):
            module.set_member(name, griffe.Alias(name, errors[name], parent=module))


def fenced(text: str) -> str:
    """The docstring with its examples and literal blocks as fenced code."""
    lines = text.split("\n")
    out: list[str] = []
    position = 0
    while position < len(lines):
        line = lines[position]
        if line.lstrip().startswith(">>> "):
            start, end = position, example_end(lines, position)
            out += block("pycon", lines[start:end])
        elif literal := LITERAL.match(line):
            start, end = position + 1, literal_end(lines, position + 1)
            out += block(literal[1] or "text", dedent("\n".join(lines[start:end])).strip("\n").split("\n"))
        else:
            out.append(line)
            end = position + 1
        position = end
    return "\n".join(out)


def block(language: str, lines: list[str]) -> list[str]:
    """A fenced block of these lines, as deep as the first one."""
    margin = " " * (len(lines[0]) - len(lines[0].lstrip()))
    return [f"{margin}```{language}", *lines, f"{margin}```", ""]


def example_end(lines: list[str], start: int) -> int:
    """The line after an example. Examples with a blank line between them are one."""
    end = start
    for number in range(start, len(lines)):
        if not lines[number].strip():
            following = next((line for line in lines[number:] if line.strip()), "")
            if not following.lstrip().startswith(">>> "):
                break
        end = number + 1
    return end


def literal_end(lines: list[str], start: int) -> int:
    """The line after an indented block."""
    for number in range(start, len(lines)):
        if lines[number].strip() and not lines[number].startswith(" "):
            return number
    return len(lines)


def linked(text: str, obj: griffe.Object) -> str:
    """The docstring with a link at each name in backticks that the reference has."""

    def link(match: re.Match[str]) -> str:
        found = meant(match[1], obj)
        return f'<autoref identifier="{found}" optional>`{match[1]}`</autoref>' if found else match[0]

    parts = re.split(r"(^ *```.*?^ *```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.lstrip().startswith("```") else NAME.sub(link, part) for part in parts)


def meant(name: str, obj: griffe.Object) -> str | None:
    """The path of what a docstring means by a name: something of its class, of its module, or public."""
    name = name.removeprefix("sv.").removeprefix("statevar.")
    for scope in scopes_of(obj):
        try:
            found = member_of(scope, name) if scope.is_class else scope[name]
            if found.is_alias and not found.resolved:
                found.resolve_target()
        except (KeyError, griffe.AliasResolutionError):
            continue  # not here, or a name of another library
        if found.is_attribute and not found.has_docstring:
            return str(found.parent.path)  # it is described in the docstring of its class
        return str(found.path)
    return None


def scopes_of(obj: griffe.Object) -> Iterator[griffe.Object]:
    """Where a name is looked for, the nearest first."""
    scope: griffe.Object | None = obj
    while scope is not None and not scope.is_module:
        if scope.is_class:
            yield scope
        scope = scope.parent
    if scope is not None and not scope.is_init_module:  # a package has modules of the names of their functions
        yield scope
    yield obj.package
    for name, member in obj.package.members.items():
        if not name.startswith("_") and not member.is_alias and member.is_module:
            yield member


def member_of(cls: griffe.Class, name: str) -> griffe.Object:
    """A member of a class, its own or inherited."""
    if name in cls.members:
        return cls[name]
    return cls.inherited_members[name]
