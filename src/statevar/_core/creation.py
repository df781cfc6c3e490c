"""Finds the initial value of a variable from a value, the name of an initializer, a callable, or None."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from .._arrays.dtypes import KEYS, dtype_name, keys_are_no_numbers
from .._arrays.registry import loaded_backends, owner_of
from .._arrays.shapes import DeclaredShape, is_static
from ..errors import DTypeError, InitializerError, ShapeError, describe
from ..initializers import first_value, get, is_ours
from . import overlays
from .convert import unwrapped
from .foreign import array_in, described, lists_arrays

if TYPE_CHECKING:  # it takes a millisecond of every import
    from inspect import Parameter

__all__ = ["called_later", "initial_value", "unexpected"]

#: Returns an initial value of a shape and a dtype.
_Caller = Callable[[tuple[int, ...], str], Any]


def initial_value(
    initializer: Any, declared: DeclaredShape | None, dtype: str | None, seed: int | None
) -> tuple[Any, str | None, bool]:
    """The initial value, the dtype to cast it to, and whether nobody else has the value.

    The value is None if the variable has none yet, and a `FirstValue` of an initializer of ours; any other callable is
    called. The dtype is None if it follows from the value.
    """
    named = isinstance(initializer, str)
    if named:
        if dtype in KEYS:
            raise keys_are_no_numbers("Variable", dtype)
        initializer = get(initializer)
    elif seed is not None:
        raise InitializerError.of(
            "Variable",
            "seed= works only with the name of an initializer",
            hint="pass a name such as 'normal', or seed your callable yourself",
        )
    if initializer is None:
        if declared is None:
            raise InitializerError.of(
                "Variable",
                "got neither an initial value nor a shape",
                hint="pass a value, or shape= and dtype= for a variable that is assigned later",
            )
        return None, dtype, False
    value = array_in(unwrapped(initializer))  # first, since another framework's variable may be callable
    if value is not initializer or not callable(value):
        return value, dtype, False
    if isinstance(initializer, type):
        initializer = _made(initializer)
    if lists_arrays(type(initializer)):
        problem, hint = described(initializer)
        raise InitializerError.of("Variable", problem, hint=hint)
    if named or is_ours(initializer):
        dtype = dtype or "float32"
        return first_value(initializer, _static(declared), dtype, seed), dtype, True
    call: Callable[[], Any] = initializer
    if not _takes_nothing(initializer, declared):
        dtype = dtype or "float32"
        call = partial(_caller(initializer), _static(declared), dtype)
    with ExitStack() as stack:
        if overlays.active:  # a library may be tracing this code
            for backend in loaded_backends():
                if backend.tracing is not None:
                    stack.enter_context(backend.tracing.outside_trace())
        held = [call()]
    if (owner := owner_of(held[0])) is not None and owner.is_unshared(held):
        return held.pop(), dtype, True
    value = held.pop()
    if value is None:
        name = getattr(initializer, "__name__", type(initializer).__name__)
        raise InitializerError.of("Variable", f"the initializer {name} returned None", hint="return the initial value")
    return array_in(unwrapped(value)), dtype, False


def called_later(initializer: Any, declared: DeclaredShape | None) -> Any:
    """A callable of the user that can be called later, with the shape; None if it has to be called to know the shape.

    Raises:
        InitializerError, ShapeError: as `initial_value`, for one that cannot be called.
    """
    if isinstance(initializer, type):
        initializer = _made(initializer)
    if lists_arrays(type(initializer)) or _takes_nothing(initializer, declared):
        return None
    _caller(initializer)
    _static(declared)
    return initializer


def _static(declared: DeclaredShape | None) -> tuple[int, ...]:
    if declared is None or not is_static(declared):
        raise ShapeError.of(
            "Variable",
            f"an initializer needs a shape without open axes, got {declared}",
            hint="pass a full shape, such as shape=(3, 4)",
        )
    return declared  # type: ignore[return-value]  # is_static says so


def _made(cls: type) -> Any:
    """An object of a class of initializers, made without arguments, as Keras makes it."""
    if not any("__call__" in vars(base) for base in cls.__mro__) or lists_arrays(cls):
        try:
            hint = f"for a dtype, write dtype={dtype_name(cls)!r}"
        except DTypeError:
            hint = "pass a value, a list, an array or an initializer"
        raise InitializerError.of("Variable", f"the class {cls.__name__} is no initial value", hint=hint)
    try:
        return cls()
    except TypeError as error:
        raise InitializerError.of(
            "Variable",
            f"the class {cls.__name__} cannot be made without arguments ({error})",
            hint=f"pass an object of it: {cls.__name__}(…)",
        ) from None


def _parameters(initializer: Any) -> list[Parameter] | None:
    """The parameters of a callable; None if Python does not know them, as for some functions written in C."""
    from inspect import signature  # noqa: PLC0415

    try:
        return list(signature(initializer).parameters.values())
    except (TypeError, ValueError):
        return None


def _positional(parameters: list[Parameter]) -> list[Parameter]:
    return [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]


def _needed(parameters: list[Parameter]) -> list[Parameter]:
    """The parameters that a call must give."""
    return [
        each
        for each in parameters
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]


def _takes_nothing(initializer: Any, declared: DeclaredShape | None) -> bool:
    """Whether an initializer is called without arguments, as TensorFlow calls it.

    One whose parameters all have defaults is such a one only if no shape is given: ``lambda rate=rate: rate * 2``.
    """
    parameters = _parameters(initializer)
    if parameters is None or _needed(parameters) or _name_of_shape(parameters) is not None:
        return False
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return False
    return declared is None or not _positional(parameters)


def _name_of_shape(parameters: list[Parameter]) -> str | None:
    """The name by which a callable takes the shape; None if no parameter has such a name."""
    named = {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    return next((name for name in ("shape", "size") if name in named), None)


def _caller(initializer: Any) -> _Caller:
    """A function of shape and dtype that calls an initializer in the way that its signature says.

    Raises:
        InitializerError: its signature does not say it.
    """
    parameters = _parameters(initializer)
    if parameters is None:
        return partial(_tried, initializer)
    positional, needed = _positional(parameters), [each.name for each in _needed(parameters)]
    first_two = [each.name for each in positional[:2]]
    name = _name_of_shape(parameters)
    two = len(first_two) == 2 and needed == first_two
    # The second one is the dtype, unless the names say otherwise: (dtype, shape), (shape, fill_value).
    if two and (name is None or (name == first_two[0] and (first_two[1] == "dtype" or len(first_two[1]) <= 2))):
        return initializer  # type: ignore[no-any-return]
    if name is not None:
        others = [each for each in needed if each not in (name, "dtype")]
        if others:
            raise _refused(initializer, parameters, f"and needs {', '.join(others)} as well")
        takes_dtype = any(each.name == "dtype" or each.kind is each.VAR_KEYWORD for each in parameters)
        return lambda shape, dtype: initializer(**{name: shape}, **({"dtype": dtype} if takes_dtype else {}))
    if any(each.kind is each.VAR_POSITIONAL for each in parameters) and len(needed) <= 2:
        return partial(_tried, initializer)
    if first_two[1:] == ["dtype"] and len(needed) <= 1:
        return partial(_tried, initializer)
    raise _refused(initializer, parameters, "of which none is named shape")


def _tried(initializer: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """Calls an initializer whose signature says nothing."""
    try:
        return initializer(shape, dtype)
    except TypeError as error:
        name = getattr(initializer, "__name__", type(initializer).__name__)
        raise InitializerError.of(
            "Variable",
            f"the initializer {name} cannot be called with the shape {shape} and the dtype {dtype!r} ({error})",
            hint=f"write a function that calls it: lambda shape, dtype: {name}(…)",
        ) from error


def _refused(initializer: Any, parameters: list[Parameter], problem: str) -> InitializerError:
    name = getattr(initializer, "__name__", None)
    names = ", ".join(str(each).partition(":")[0].partition("=")[0].strip() for each in parameters)
    return InitializerError.of(
        "Variable",
        "an initializer is called with (shape, dtype), with the shape alone, or with nothing; "
        f"{name or f'this object of type {type(initializer).__name__}'} takes ({names}), {problem}",
        hint=f"write a function that calls it: lambda shape, dtype: {name}(…)"
        if name
        else "pass a function of shape and dtype; or make one variable of each array that the object has",
    )


#: Arguments with which other libraries make variables and arrays, and what to write instead.
_OTHERS = {
    **dict.fromkeys(
        ("initial_value", "value", "data", "object", "init", "init_value"), "the first argument, initializer="
    ),
    **dict.fromkeys(("requires_grad", "requires_gradient"), "trainable="),
    **dict.fromkeys(("lib", "library", "framework"), "backend="),
    "caching_device": "device=",
    "expected_shape": "shape=",
    **dict.fromkeys(("collections", "variable_def", "import_scope"), "nothing: there are no graphs and collections"),
    **dict.fromkeys(("reuse", "custom_getter"), "nothing, and keep the variable where you need it again"),
    "experimental_enable_variable_lifting": "nothing: a variable may be made in a compiled function",
    **dict.fromkeys(("partitioner", "sharding_names", "layout", "out_sharding", "placements"), "sharding="),
    "device_mesh": "mesh=",
    **dict.fromkeys(("metadata", "overwrite_with_gradient"), "an attribute of your own: v.tag = 3"),
    **dict.fromkeys(("pin_memory", "memory_format", "out"), "the value as you want it: sv.Variable(x)"),
    **dict.fromkeys(("on_get_value", "on_set_value", "on_create_value"), "constraint=, or v.subscribe(fn)"),
    "size": "shape=",
    "validate_shape": "shape=..., which lets the shape change",
    "synchronization": "nothing: a variable has one value, which every reader sees",
    "use_resource": "nothing: every variable is an object of its own",
    "regularizer": "it in the loss: a variable applies no regularizer",
    "read_value": "v.assign(x, read_value=False), since only a write has it",
    "use_locking": "v.assign(x, use_locking=False), since only a write has it",
}


def unexpected(arguments: Mapping[str, Any], known: list[str]) -> TypeError:
    """The error for keyword arguments that a variable does not have, with the one that was meant."""
    from difflib import get_close_matches  # noqa: PLC0415

    name = next(iter(arguments))
    if name in _OTHERS:
        hint = f"write {_OTHERS[name]}"
    elif close := get_close_matches(name, known, n=1):
        hint = f"did you mean {close[0]}="
    else:
        hint = f"the arguments are {', '.join(known)}"
    return TypeError(describe("Variable", f"got an unexpected keyword argument {name!r}", hint=hint))
