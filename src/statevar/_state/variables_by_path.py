"""`VariablesByPath`: variables under whole paths, and how they are shown."""

from __future__ import annotations

from typing import Any, final

from .._core.tables import count_text
from .._public import public
from .by_path import ByPath
from .summarized import Summarized

__all__ = ["VariablesByPath"]


@final
@public("statevar.checkpoint")
class VariablesByPath(ByPath, Summarized):
    """A mapping from path to variable whose keys are whole paths: ``layers/0/kernel`` is no key with two slashes.

    `save`, `load`, `snapshot` and all others that name variables take the keys as they are, where the keys of a dict
    are one segment each, in which a slash is escaped. `Checkpoint.to_variables` returns one. A lookup follows aliases.
    The mapping lists each variable once, under its first path.

    Args:
        variables: the variables, by first path.
        aliases: maps each further path, of a variable or of a container of variables, to its first path, which is
            empty for the whole mapping.

    Raises:
        TypeError: a key is no string, or a value is no variable.
        ValueError: a key is empty, or an alias is the path of a variable or leads to none.

    >>> import statevar as sv
    >>> from statevar.checkpoint import VariablesByPath
    >>> kernel = sv.Variable([1.0, 2.0])
    >>> found = VariablesByPath({"encoder/kernel": kernel}, {"decoder": "encoder"})
    >>> found["decoder/kernel"] is kernel, list(found), dict(found.aliases)
    (True, ['encoder/kernel'], {'decoder': 'encoder'})
    >>> list(sv.snapshot(found))
    ['encoder/kernel']
    """

    def __repr__(self) -> str:
        shared = f" and {count_text(len(self._aliases), 'shared path')}" if self._aliases else ""
        return f"<VariablesByPath of {count_text(len(self), 'variable')}{shared}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        super()._repr_pretty_(printer, cycle)  # IPython looks no further than the class with `__repr__`
