"""``encoder/kernel[0, 1:3]*=0.5`` on the command line: a variable, a part of it, an operation and a value."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from ..checkpoint._checkpoint import Checkpoint
from .exits import CommandError, Exit
from .paths import close_to
from .reading import first_name
from .target import target

__all__ = ["Assignment", "parsed"]

#: What is before the ``=``, and the method of ``v.at[...]``.
_OPERATIONS = {
    "**": "power",
    "//": "floor_divide",
    "+": "add",
    "-": "subtract",
    "*": "multiply",
    "/": "divide",
    "%": "remainder",
    "": "set",
}
_FLAGS = ("trainable", "autocast", "aggregation")


class Assignment(NamedTuple):
    """A change that somebody wants.

    Attributes:
        path: the first path of the variable.
        place: what is assigned, as it was written.
        key: the index, for NumPy; ``...`` for the whole value.
        operation: the method of ``v.at[key]``, or ``"assign"`` of the variable itself.
        flag: the flag that is set; "" if it is the value.
        value: the text of the value.
    """

    path: str
    place: str
    key: Any
    operation: str
    flag: str
    value: str


def parsed(text: str, checkpoint: Checkpoint) -> Assignment:
    """Parses a change. Names may have any characters: the longest name that is known is meant.

    Raises:
        CommandError: it is no assignment, its index is not valid, or there is no such variable.
    """
    ends = [at for at, character in enumerate(text) if character == "="]
    if not ends:
        raise CommandError(f"expected NAME[INDEX]=VALUE, got {text!r}", hint="statevar edit --help")
    problem: CommandError | None = None
    for at in reversed(ends):
        for sign, operation in sorted(_OPERATIONS.items(), key=lambda each: len(each[0])):
            if not text[:at].endswith(sign):
                continue
            try:
                found = _at(text[: at - len(sign)].strip(), operation, text[at + 1 :], checkpoint)
            except CommandError as error:  # a name with an index that is not valid; a shorter name may be meant
                problem = problem or error
                continue
            if found is not None:
                return found
    raise problem or _unknown(text[: ends[0]], checkpoint)


def _at(place: str, operation: str, value: str, checkpoint: Checkpoint) -> Assignment | None:
    """The assignment to a place; None if no variable has its name."""
    if (found := target(place, lambda name: first_name(checkpoint, name) is not None)) is not None:
        if operation == "set" and not found.text:
            operation = "assign"
        return Assignment(first_name(checkpoint, found.name) or "", place, found.key, operation, "", value)
    name, _, flag = place.rpartition(".")
    first = first_name(checkpoint, name)
    if flag not in _FLAGS or first is None:
        return None
    if operation != "set":
        raise CommandError(f"a flag is set with =, got {place!r} with another operator")
    return Assignment(first, place, ..., operation, flag, value)


def _unknown(place: str, checkpoint: Checkpoint) -> CommandError:
    name = re.sub(r"\s*(\[[^\[\]]*\])?\s*(\*\*|//|[-+*/%])?\s*$", "", place)
    near = close_to(name, checkpoint.variables)
    hint = f"did you mean {near!r}?" if near else f"statevar ls {checkpoint.path}"
    return CommandError(f"no variable {name!r} in {checkpoint.path}", Exit.MISSING, hint)
