"""`Shown`: what notebooks and pretty printers ask an object for.

None of it raises, and no library is imported for it. IPython asks for `_repr_html_` and `_repr_pretty_`, rich for
``__rich_repr__``, and treescope for ``__treescope_repr__``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any, ClassVar

from .display import unavailable
from .tables import escaped

__all__ = ["Raw", "Shown", "raw_lines"]


class _OfObjects:
    """A method that objects have, and not their class: treescope asks the class for ``_repr_html_``.

    It would show the HTML too then, in a frame for each variable, and fold its own tree.
    """

    def __init__(self, function: Callable[[Any], str]) -> None:
        self._function = function

    def __get__(self, instance: object, owner: type) -> Any:
        return self if instance is None else MethodType(self._function, instance)


class Shown:
    """The four displays of an object, from what its class tells: a text, the parts of it, and HTML."""

    __slots__ = ()

    #: Whether the parts are items, rather than attributes.
    _is_mapping: ClassVar[bool] = False

    def _shown_parts(self) -> Iterator[tuple[str, Any]]:
        """The parts that printers of nested objects show, by name. A part without a name comes first."""
        yield from ()

    def _shown_tree(self) -> Iterator[tuple[str, Any]]:
        """The parts for a printer that shows arrays itself."""
        return ((name or "path", part) for name, part in self._shown_parts())

    def _shown_text(self) -> str:
        """The text at IPython's prompt."""
        return str(self)

    def _shown_html(self) -> str:
        """HTML that needs neither scripts nor anything from elsewhere."""
        from .html import page, text  # noqa: PLC0415  # the import of statevar must not take longer for it

        return page(f"<pre>{text(self._shown_text(), lines=True)}</pre>")

    def __rich_repr__(self) -> Iterator[Any]:
        """Yields the parts for ``rich.pretty``."""
        for name, part in _listed(self._shown_parts):
            yield (escaped(name), part) if name else part

    def __treescope_repr__(self, path: str | None, subtree_renderer: Any) -> Any:
        """Returns the parts as a tree of treescope."""
        from treescope import repr_lib  # noqa: PLC0415  # only treescope itself calls this

        kind, parts = type(self), dict(_listed(self._shown_tree))
        if self._is_mapping:
            return repr_lib.render_dictionary_wrapper(kind, parts, path, subtree_renderer)
        return repr_lib.render_object_constructor(kind, parts, path, subtree_renderer)

    @_OfObjects
    def _repr_html_(self) -> str:
        """Returns the HTML that notebooks show."""
        try:
            return self._shown_html()
        except Exception as error:  # noqa: BLE001  # a display never raises
            return f"<pre>&lt;{type(self).__name__}, {unavailable(error)}&gt;</pre>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Prints the text at IPython's prompt; inside another object ``repr``, with its lines below each other."""
        if cycle:
            printer.text(f"<{type(self).__name__} …>")
            return
        alone = len(getattr(printer, "stack", ())) <= 1
        try:
            shown = self._shown_text() if alone else repr(self)
        except Exception as error:  # noqa: BLE001  # a display never raises
            shown = f"<{type(self).__name__}, {unavailable(error)}>"
        with printer.group(0 if alone else 2):
            for number, line in enumerate(shown.split("\n")):
                if number:
                    printer.break_()
                printer.text(line)


def _listed(parts: Callable[[], Iterator[tuple[str, Any]]]) -> list[tuple[str, Any]]:
    try:
        return list(parts())
    except Exception as error:  # noqa: BLE001  # a display never raises
        return [("unavailable", Raw(type(error).__name__))]


class Raw:
    """A text that printers show as it is, without quotes."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = escaped(text)

    def __repr__(self) -> str:
        return self._text

    def __treescope_repr__(self, path: str | None, subtree_renderer: Any) -> Any:
        from treescope import rendering_parts  # noqa: PLC0415  # only treescope itself calls this

        return rendering_parts.build_one_line_tree_node(rendering_parts.text(self._text), path)


def raw_lines(text: str) -> Any:
    r"""A text for a printer that knows no lines in a text: one part, or a list of one part for each line.

    >>> raw_lines("[1. 2.]"), raw_lines("[[1. 2.]\n [3. 4.]]")
    ([1. 2.], [[1. 2.], [3. 4.]])
    """
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) == 1:
        return Raw(lines[0])
    if text.startswith("[") and text.endswith("]"):  # the brackets of the array are those of the list
        lines = [line[1:] for line in lines]
        lines[-1] = lines[-1][:-1]
    return [Raw(line) for line in lines]
