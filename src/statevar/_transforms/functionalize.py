"""Code that reads and writes variables, as a pure function of their values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from .._core.copies import Uncopied
from .._core.variable import Variable
from .._public import public
from .._state.structure import Structure
from ..errors import describe
from .overlay import ValueOverlay

__all__ = ["StatelessScope", "functionalize"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


@public()
class StatelessScope(Uncopied):
    """Gives variables the values of a mapping inside a ``with`` block; writes stay in the scope: no variable changes.

    Args:
        state_mapping: values by variable, or pairs of a variable and a value; converted as `Variable.assign` does.
            Variables that are not in it have the values that they have outside the scope.

    Raises:
        DTypeError, RangeError, ShapeError: a value does not fit its variable.
        TypeError: a key is not a variable.

    Scopes can be nested: an inner one starts with the values of the outer one. A scope that has ended can be entered
    again, with the values that it has then; while it is open, it cannot. A scope belongs to the thread or asyncio
    task that opened it, keeps its variables alive, and still returns values after it has ended.

    Source: ``keras.StatelessScope``.

    >>> import statevar as sv
    >>> v = sv.Variable([1.0, 2.0])
    >>> with sv.StatelessScope({v: [10.0, 20.0]}) as scope:
    ...     v += 1.0
    ...     print(v.value)
    [11. 21.]
    >>> scope.get_current_value(v), v.value
    (array([11., 21.], dtype=float32), array([1., 2.], dtype=float32))
    """

    __slots__ = ("_is_open", "_overlay", "_values")

    def _uncopied(self) -> tuple[str, str, str]:
        hint = "make a new one of its values: {v: scope.get_current_value(v) for v in variables}"
        return "StatelessScope", "a scope belongs to the thread or task that opens it", hint

    def __init__(self, state_mapping: Mapping[Variable, Any] | Iterable[tuple[Variable, Any]] | None = None) -> None:
        pairs: Any = state_mapping.items() if isinstance(state_mapping, Mapping) else state_mapping
        self._values: list[Any] = [] if pairs is None else list(pairs)
        for pair in self._values:
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], Variable):
                raise TypeError(
                    describe(
                        "StatelessScope",
                        f"expected variables as keys, got {pair[0] if isinstance(pair, tuple) and pair else pair!r}",
                        hint="pass {variable: value, …}",
                    )
                )
        self._overlay = ValueOverlay("a StatelessScope", self._values)
        self._is_open = False

    def __enter__(self) -> Self:
        if self._is_open:
            problem = "this scope is open already, here or in another thread"
            raise RuntimeError(describe("StatelessScope", problem, hint="make one for each block"))
        self._overlay.__enter__()
        self._is_open = True
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_open = False
        self._overlay.__exit__(*exception)
        again = ValueOverlay("a StatelessScope", self._values)  # for another entry, with the present values
        for variable, draft in self._overlay.drafts.items():
            again.drafts[variable] = draft
            draft._overlay = again
        again.written = dict(self._overlay.written)
        self._overlay = again

    def get_current_value(self, variable: Variable) -> Any:
        """The value that a variable has in the scope; None if the scope has none for it, as in Keras."""
        draft = self._overlay.drafts.get(variable)
        return None if draft is None else draft._snapshot

    def add_update(self, update: tuple[Variable, Any]) -> None:
        """Sets the value of a variable in the scope: ``(variable, value)``."""
        variable, value = update
        self._overlay.seed(variable, value)


@public()
def functionalize(fn: Callable[_P, _R], variables: Any) -> Callable[Concatenate[Any, _P], tuple[_R, Any]]:
    """Returns a pure function for code that reads and writes variables, for any transform of any library.

    Args:
        fn: any callable.
        variables: the variables that ``fn`` may write, and those whose reads a transform must see: a variable, a pytree
            of them, or an object that contains them.

    Returns:
        ``pure(values, *args, **kwargs) -> (out, new_values)``: ``values`` and ``new_values`` have the structure
        of ``variables``. No variable changes. ``pure`` keeps the variables alive.

    Raises:
        TraceError: on calling: ``fn`` writes a variable that is not listed; or reads one while a tracer would bake its
            current value into the traced function.
        ValueError: on calling: ``values`` has another structure than ``variables``.

    Source: functionalization in ``keras.Variable``, ``torch.func.functional_call``.

    >>> import statevar as sv
    >>> count = sv.Variable(0.0)
    >>> pure = sv.functionalize(lambda x: count.assign_add(x).value * 2, [count])
    >>> pure([10.0], 1.0), float(count)
    ((np.float32(22.0), [array(11., dtype=float32)]), 0.0)
    """
    structure = Structure("functionalize", variables)

    @wraps(fn)
    def pure(values: Any, /, *args: _P.args, **kwargs: _P.kwargs) -> tuple[_R, Any]:
        with ValueOverlay("functionalize", structure.pairs(values), only=structure.variables) as overlay:
            out = fn(*args, **kwargs)
            new = dict(zip(structure.variables, overlay.values(structure.variables), strict=True))
        return out, structure.build(new.__getitem__)

    del pure.__wrapped__  # libraries read its signature, and `pure` has one argument more
    return pure
