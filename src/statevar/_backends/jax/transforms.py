"""JAX's transforms, for code whose variables have values in an overlay.

`_Jit` has one jitted pure function of ``(written values, read values, *args)``. Tracing finds the variables: one that
is met for the first time aborts the trace, which begins again with its value given. So the lists only grow, and a warm
call is JAX's own dispatch between two loops over the variables.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import starmap
from operator import attrgetter, is_not
from threading import get_ident
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from ..._arrays.transforms import Program, Transforms
from ..._core import overlays, settings, sharing
from ..._core.variable import Variable
from ..._transforms.call import CompiledCall, CreationLimit, Retry, TraceOverlay, check_library
from ...errors import ShardingError, TraceError, describe
from .adapter import BACKEND
from .places import check_places, on_mesh_of, on_several, shardings_of
from .pytree import by_identity
from .residence import Residence
from .tracing import is_eager

__all__ = ["TRANSFORMS"]

_ATTEMPTS = 50  # each finds at least one more variable


class JAXTransforms(Transforms):
    tapes = False

    # -- gradients -----------------------------------------------------------------------------------------

    def value_and_grad(
        self, fn: Callable[[list[Any]], tuple[Any, Any]], values: list[Any]
    ) -> tuple[tuple[Any, Any], list[Any]]:
        try:
            with on_mesh_of(values):
                result: tuple[tuple[Any, Any], list[Any]] = jax.value_and_grad(fn, has_aux=True)(values)
        except ValueError as error:
            if "Please enter your `jit` into a mesh context" not in str(error):
                raise
            problem = f"JAX needs the mesh of the values that the function computes with ({error})"
            hint = "call it in sv.jit, or in `with jax.set_mesh(mesh):`"
            raise ShardingError.of("value_and_grad", problem, hint=hint) from error
        return result

    def zeros_like(self, array: Any) -> Any:
        return jnp.zeros_like(array)

    # -- compilation ---------------------------------------------------------------------------------------

    def takes_apart(self, argument: Any) -> bool:
        return not jax.tree_util.all_leaves([argument])  # its class is registered as a pytree

    def jit(self, program: Program) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
        return _Jit(program).run  # a call of a bound method is faster than one of an object

    # -- control flow --------------------------------------------------------------------------------------

    def stages_loops(self, pytree: Any) -> bool:
        return True

    def written_by(self, fn: Callable[..., Any], *args: Any) -> None:
        jax.eval_shape(lambda *each: (fn(*each), None)[1], *args)

    def scan(self, body: Callable[..., Any], carry: Any, xs: Any, length: int | None, *, reverse: bool) -> Any:
        return jax.lax.scan(body, carry, xs, length, reverse=reverse)

    def cond(self, predicate: Any, on_true: Callable[..., Any], on_false: Callable[..., Any], operands: Any) -> Any:
        return jax.lax.cond(predicate, on_true, on_false, *operands)

    def while_loop(self, condition: Callable[..., Any], body: Callable[..., Any], carry: Any) -> Any:
        return jax.lax.while_loop(condition, body, carry)

    names_axes = True

    def vmap(
        self, fn: Callable[..., Any], in_axes: Any, out_axes: Any, axis_size: int | None, axis_name: Any = None
    ) -> Callable[..., Any]:
        mapped: Callable[..., Any] = jax.vmap(fn, in_axes, out_axes, axis_size=axis_size, axis_name=axis_name)
        return mapped

    def remat(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        result: Callable[..., Any] = jax.checkpoint(fn)
        return result

    def stack(self, arrays: Sequence[Any], axis: int = 0) -> Any:
        return jnp.stack([jnp.asarray(each) for each in arrays], axis)


# The reasons to try a call again, besides `HELD`.
_DISCOVERED: Final = "the trace met a variable for the first time and begins again with its value given"
_CHANGED: Final = "a variable was written or recalled during the call"
_TRACES: Final = "JAX began to trace during a call that has locks: the trace is made without them"


_MAY_BE_WRITTEN: Final = {np.ndarray, list, tuple, dict}


def _kept(argument: Any) -> Any:
    """An argument with a copy of each NumPy array in it, since JAX may read it after the call has returned."""
    cls = type(argument)
    if cls is np.ndarray:
        return argument.copy()
    if cls is dict:
        return {name: _kept(each) for name, each in argument.items()}
    if cls is list:
        return [_kept(each) for each in argument]
    return tuple(map(_kept, argument)) if cls is tuple else argument


_snapshot_of = attrgetter("_snapshot")


class _Config:
    """The variables that a program is known to use, and the compiled function for them."""

    __slots__ = (
        "__weakref__",
        "call",
        "caller",
        "careful",
        "cold",
        "home",
        "known",
        "read",
        "reshapes",
        "seen",
        "shardings",
        "written",
    )

    def __init__(self, jit: _Jit, written: tuple[Variable, ...], read: tuple[Variable, ...]) -> None:
        self.written, self.read = written, read
        self.known = written + read
        self.home = Residence(written)
        self.cold = True  # nothing has been compiled yet
        self.caller = 0  # the thread whose call is running with a lock taken
        self.reshapes = False  # whether the program changes the shape of a variable
        self.seen = settings.latest[0]  # before the variables are asked
        self.shardings = shardings_of(written)
        program = jit.program
        pinned = {} if self.shardings is None else {"out_shardings": (None, self.shardings)}
        make = partial(
            jax.jit,
            partial(jit.trace, self),
            static_argnums=tuple(n + 2 if n >= 0 else n for n in program.static_argnums) or None,
            static_argnames=program.static_argnames or None,
            **pinned,
        )
        self.careful = make()  # returns the new values and keeps the old ones
        self.call = make(donate_argnums=(0,)) if program.donate else self.careful

    def __del__(self) -> None:
        if hasattr(self, "home"):
            self.home.give_all_back()

    def is_current(self) -> bool:
        """Whether no variable has moved since the program was made, which gives each the sharding that it had."""
        latest = settings.latest[0]
        if self.seen is not latest:
            if self.shardings != shardings_of(self.written):
                return False
            self.seen = latest
        return True


class _Jit:
    def __init__(self, program: Program) -> None:
        self.program = program
        self._limit = CreationLimit()
        self._config = _Config(self, (), ())

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs one call of the function."""
        for each in args:
            if type(each) in _MAY_BE_WRITTEN:
                args = tuple(map(_kept, args))
                break
        if kwargs:
            kwargs = {name: _kept(each) for name, each in kwargs.items()}
        config = self._config
        try:
            if config.cold or overlays.active or config.home.missing or not is_eager():
                return self._carefully(args, kwargs)
            try:
                return self._at_home(config, args, kwargs, get_ident())
            except Retry:
                return self._carefully(args, kwargs)
        except (TypeError, ValueError) as error:
            explained = _explained(error) or on_several(error, self._config.known, (args, kwargs))
            if explained is None:
                raise
            raise explained from error

    def _carefully(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs a call that may have to trace, wait or fetch variables, or that is part of a transaction or a trace."""
        in_overlay = overlays.active and overlays.current() is not None
        eager = is_eager()
        for _ in range(_ATTEMPTS):
            config = self._config
            if not config.is_current():
                config = self._config = _Config(self, config.written, config.read)
            by_identity.on = True
            compiled = config.cold
            try:
                if not eager:
                    return self._in_a_trace(config, args, kwargs)
                if in_overlay:
                    return self._within(config, args, kwargs)
                if config.cold:
                    self._compile(config, args, kwargs)
                by_identity.on = False
                if sharing.active and any(each._backend.is_shared for each in config.known):
                    by_identity.on = True
                    return self._within(config, args, kwargs)
                if config.reshapes or (config.home.missing and not config.home.lend(copies=self.program.donate)):
                    by_identity.on = True
                    return self._within(config, args, kwargs)
                return self._at_home(config, args, kwargs, 0 if compiled else get_ident())
            except Retry as retry:
                if retry.reason is _TRACES:
                    config.cold = True
                elif retry.reason is _CHANGED:
                    time.sleep(0)
                elif retry.variable is not None:
                    by_identity.on = False
                    retry.variable._wait_until_free("jit")
            finally:
                by_identity.on = False
        return self._within(self._config, args, kwargs)  # other threads keep writing: hold the variables

    def _compile(self, config: _Config, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Traces and compiles without any lock, so that the call that follows need not."""
        values = [[_array(each) for each in some] for some in (config.written, config.read)]
        check_places(config.known, [*values[0], *values[1]], (args, kwargs))
        config.call.lower(*values, *args, **kwargs).compile()
        config.cold = False

    def _at_home(self, config: _Config, args: tuple[Any, ...], kwargs: dict[str, Any], caller: int) -> Any:
        """Runs a call outside of any transaction, on the arrays in the residence.

        Args:
            caller: the thread that calls, in which JAX must not trace now. 0 if the program has just been compiled for
                these arguments: if JAX has dropped it already, it may trace again.
        """
        home = config.home
        # Published snapshots, which no write donates. If all of them are still current when the lock is taken, they and
        # the written values belong to one moment.
        read: list[Any] = []
        if config.read:
            read = [each._snapshot if each._snapshot is not None else _published(each) for each in config.read]
        with home.lock:
            home.running = caller or get_ident()  # from here on, code in the middle of this call recalls nothing
            config.caller = caller
            if args or kwargs:
                by_identity.on = True
            kept: list[Any] = []
            home.fresh = kept
            try:
                # No loop of Python's: where one jumps back, Python 3.13 may find Ctrl-C but no handler (seen).
                if home.missing or (read and any(map(is_not, map(_snapshot_of, config.read), read))):
                    raise Retry(_CHANGED)  # noqa: TRY301  # the same end as that of any other error
                call = partial(config.call, **kwargs) if kwargs else config.call  # a keyword takes 0.1 us
                # The old values are donated, so no Python code may come before the new ones are stored: C code does it.
                kept.extend(starmap(call, ((home.values, read, *args),)))
                [(out, home.values)] = kept
                home.calls += 1
                if home.values and home.values[0].sharding is not home.place:  # all lie on the same devices
                    home.bring_home()
            except BaseException:
                if kept and home.values is not kept[0][1]:  # Ctrl-C came right after the call
                    home.values = kept[0][1]
                    home.calls += 1
                home.drop_deleted()
                for variable in config.read:
                    variable._check_exists(variable._snapshot, "jit")
                raise
            finally:
                if args or kwargs:
                    by_identity.on = False
                config.caller = home.running = 0
                home.fresh = None
        return out() if type(out) is partial else out

    def _within(self, config: _Config, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs a call as a transaction, or as part of one."""
        with CompiledCall("jit", config.known) as call:
            values = [[call.read(each) for each in some] for some in (config.written, config.read)]
            out, news = config.careful(*values, *args, **kwargs)
            call.keep((variable, new) for variable, new in zip(config.written, news, strict=True) if new is not None)
        return out() if type(out) is partial else out

    def _in_a_trace(self, config: _Config, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs a call in a transform of JAX, not ours: computed values may be traced, so no variable can be written."""
        for variable in config.read:
            variable.value  # noqa: B018  # raises if the transform would bake the value in
        out, _ = config.careful(
            [_array(each) for each in config.written], [_array(each) for each in config.read], *args, **kwargs
        )
        if config.written:
            raise TraceError.of(
                "jit",
                "the function writes this variable, but is called inside a transform of JAX: the write would be lost",
                config.written[0].path,
                "use sv.jit, sv.grad, sv.scan, sv.vmap… instead of that transform, or sv.functionalize",
            )
        return out() if type(out) is partial else out

    def trace(self, config: _Config, _written_: Any, _read_: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The pure function that JAX compiles; it runs only while JAX traces."""
        written, read = _written_, _read_  # JAX mistakes a keyword argument of the same name for them
        if config.caller == get_ident():
            raise Retry(_TRACES)
        around, by_identity.on = by_identity.on, False
        try:
            frame = TraceOverlay("jit", zip(config.known, (*written, *read), strict=True))
            with frame:
                out = self.program.fn(*args, **kwargs)
                out = jax.tree.map(lambda leaf: leaf, out)  # replaces variables in it by their values in the overlay
                news = list(frame.values(config.written))
            config.reshapes |= any(
                new is not None and old is not None and new.shape != old.shape
                for old, new in zip(written, news, strict=True)
            )
            own = {id(each) for each in frame.created_here()}
            wrote = {id(each) for each in frame.written}
            touched = [each for each in dict.fromkeys([*frame.discovered, *frame.written]) if id(each) not in own]
            lasting = frame.lasting()
            self._limit.check(lasting)
            self._learn(config, [*touched, *lasting], wrote)
            return _packed(out), news
        finally:
            by_identity.on = around

    def _learn(self, config: _Config, touched: list[Variable], wrote: set[int]) -> None:
        """Raises Retry if the trace has met variables that were not given."""
        written = dict.fromkeys([*config.written, *(each for each in touched if id(each) in wrote)])
        read = [each for each in dict.fromkeys([*config.read, *touched]) if each not in written]
        if len(written) > len(config.written) or len(read) > len(config.read):
            check_library(BACKEND, touched)
            self._config = _Config(self, tuple(written), tuple(read))
            raise Retry(_DISCOVERED)


def _explained(error: Exception) -> Exception | None:
    """An error of JAX about an argument of a compiled function, explained; None for any other error."""
    text = str(error)
    if text.startswith("Error interpreting argument to ") and _Jit.trace.__qualname__ in text:
        found = re.search(r"is of type <class '(.+?)'> and was passed to the function at path (\S+?)\.?\s", text)
        what = (
            "an argument is neither an array nor a number"
            if found is None
            else "{1} is of type {0}".format(*found.groups())
        )
        hint = "make it a static argument, if it is hashable; or let the function close over the object"
        return TypeError(describe("jit", f"{what}, and JAX passes only arrays and numbers in pytrees", hint=hint))
    if text.startswith("Non-hashable static arguments are not supported"):
        found = re.search(r"object of type <class '(.+?)'>", text)
        what = "a static argument" if found is None else f"a static argument of type {found[1]}"
        hint = "pass a tuple or a string instead; or pass arrays as arguments that are not static"
        return TypeError(describe("jit", f"{what} is not hashable", hint=hint))
    found = re.search(r"for jit returned a value of type <class '(.+?)'>.*, which is not a valid JAX type", text)
    if found is not None and _Jit.trace.__name__ in text.partition(" at ")[0]:
        problem = f"the function returns a value of type {found[1]}, and JAX returns only arrays and numbers in pytrees"
        return TypeError(describe("jit", problem, hint="return arrays in tuples, lists or dicts"))
    return None


class _Packed:
    """A result with a user's pytree node, whose code must not run before the variables' new values are stored."""

    def __init__(self, out: Any) -> None:
        self.out = out


def _flattened(packed: _Packed) -> tuple[list[Any], Callable[[Any], Any]]:
    tree: Any
    leaves, tree = jax.tree.flatten(packed.out)
    return leaves, tree.unflatten


# JAX unflattens a `_Packed` into ``partial(tree.unflatten, leaves)``, which is made in C, without an error or Ctrl-C,
# and called once the new values are stored.
_unflattened: Any = partial
jax.tree_util.register_pytree_node(_Packed, _flattened, _unflattened)


def _packed(out: Any) -> Any:
    return _Packed(out) if "CustomNode" in str(jax.tree.structure(out)) else out


def _array(variable: Variable) -> Any:
    """The array of a variable, read without its lock."""
    if variable._backend.is_shared:
        return variable._stored()
    while (handle := variable._handle) is not None:
        array = handle.array
        if not BACKEND.is_lost(array):
            return array
        # A write of another thread destroys the old array before it stores the new one.
        variable._wait_until_free("jit")
        if variable._handle is handle and handle.array is array:
            variable._check_exists(array, "jit")
            return array
    return None


def _published(variable: Variable) -> Any:
    return None if variable._handle is None else variable._stored()


TRANSFORMS = JAXTransforms()
