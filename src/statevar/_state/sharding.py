"""Many variables over a mesh: `shard` spreads them, `materialize` gives them values, `gather` reads them as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from operator import index
from typing import Any, NoReturn

import numpy as np

from .._arrays.dtypes import KEYS, keys_are_no_numbers
from .._arrays.registry import library_of, owner_of
from .._arrays.shapes import Shape
from .._arrays.trees import leaves, tree_map
from .._arrays.types import HostArray
from .._arrays.world import current_world, exchange
from .._core import overlays
from .._core.convert import unwrapped
from .._core.deferring import recipe_of
from .._core.frozen import FrozenVariable
from .._core.moving import Move, move_all
from .._core.scopes import current_mesh
from .._core.sharded import asked_of, check_seeded, planned
from .._core.traced import check_traced_read
from .._core.variable import Variable
from .._public import public
from ..errors import InitializerError, ShapeError, ShardingError, TraceError, describe
from .paths import Paths, path_matches, paths_in

__all__ = ["gather", "local_rows", "materialize", "shard", "shard_batch"]

_FORM = 'shard(model, {"*/kernel": (None, "model"), "*": ()})'
_NAMED = 10  # problems that one error names
_MANY = 1000  # shapes of batches that are remembered
_REST = "*"  # the pattern that may match nothing, since it says what happens to the rest


@public()
def shard(model: Any, shardings: Mapping[str, Any], mesh: Any = None) -> dict[str, Any]:
    """Spreads the variables in an object over the devices of a mesh: each as the first pattern says that it matches.

    The values stay the same. Variables that were made in `deferred` get their values, in shards, so that none is ever
    whole on a device; while that scope is open they only learn where they will be. All variables move, or none. If
    other processes have parts of the values it communicates, and every process calls it.

    Args:
        model: variables, containers of variables, or objects that have them as attributes.
        shardings: maps a pattern of paths, as in ``load(only=)``, to what `Variable` takes as ``sharding=``: for each
            axis the name of a mesh axis, several names, or None. ``()`` gives each device of the mesh the whole value,
            and None leaves a variable in one place, or brings it back to one. The first pattern that matches counts,
            and each variable needs one: ``"*": ()`` at the end is for the rest.
        mesh: the mesh of the library; by default that of the `mesh` scope, or of the present sharding.

    Returns:
        The sharding of each variable by its path, as `Variable.sharding`.

    Raises:
        ConflictError: it is called in a transaction.
        ShardingError: a pattern matches no path, or only paths that another one has matched before; a variable matches
            no pattern; an axis is not one of the mesh, or its size does not divide; a variable cannot be spread. One
            message lists all the problems, and nothing has moved.
        TypeError: the object has no variables.

    Source: ``keras.distribution.LayoutMap``.

    >>> import statevar as sv
    >>> model = {"dense": {"kernel": sv.Variable([[1.0, 2.0]]), "bias": sv.Variable([0.0])}}
    >>> sv.shard(model, {"*/kernel": (None, "model"), "*": ()})
    Traceback (most recent call last):
        ...
    statevar.errors.ShardingError: shard: nothing has moved, since there are 2 problems:
      'dense/kernel': a variable of numpy lies in one place, and sharding=(None, 'model') was asked for
      'dense/bias': a variable of numpy lies in one place, and sharding=() was asked for. Hint: pass backend='jax' or \
backend='torch'; or None, which leaves it in one place.
    """
    paths = paths_in("shard", model)
    if not isinstance(shardings, Mapping):
        raise TypeError(describe("shard", f"expected a dict of patterns, got {type(shardings).__name__}", hint=_FORM))
    keys: list[Any] = list(shardings)
    if wrong := [each for each in keys if not isinstance(each, str)]:
        raise TypeError(describe("shard", f"expected patterns of paths as keys, got {wrong[0]!r}", hint=_FORM))
    problems, hint = _problems_of_patterns(paths, list(shardings))
    moves: list[Move] = []
    matches = {pattern: path_matches(pattern) for pattern in shardings}
    for path, variable in paths.variables.items():
        pattern = next((each for each in shardings if matches[each](path)), None)
        if pattern is None:
            problems.append(f"{path!r}: no pattern matches it")
            hint = 'end the dict with "*": () for the rest, or with "*": None to leave it in one place'
            continue
        try:
            move = planned("shard", variable, shardings[pattern], mesh, path)
        except (ShardingError, InitializerError) as error:
            problems.append(f"{path!r}: {error._parts[1]}")
            hint = hint or error._parts[3]
        else:
            moves += [] if move is None else [move]
    if problems:
        raise ShardingError.of("shard", _listed(problems), hint=hint)
    # A function of the user may draw from one generator for all, so it is called in the order of creation.
    move_all("shard", sorted(moves, key=_number))
    return {path: variable.sharding for path, variable in paths.variables.items()}


def _number(move: Move) -> int:
    return -1 if move.recipe is None else move.recipe.number


def _problems_of_patterns(paths: Paths, patterns: list[str]) -> tuple[list[str], str]:
    """The patterns that apply to no variable, as problems, and a hint."""
    problems, hint = [], ""
    left = list(paths.variables)
    for pattern in patterns:
        matches = path_matches(pattern)
        here = [path for path in left if matches(path)]
        left = [path for path in left if not matches(path)]
        if here or pattern == _REST:
            continue
        if before := [path for path in paths.variables if matches(path)]:
            problems.append(f"{pattern!r}: another pattern before it matches all its paths, such as {before[0]!r}")
            hint = "the first pattern that matches counts, so put the narrow ones first"
        elif further := [path for path in paths.aliases if matches(path)]:
            problems.append(f"{pattern!r}: matches {further[0]!r}, which is also {paths.aliases[further[0]]!r}")
            hint = "write the first path of a thing that has several"
        else:
            some = ", ".join(map(repr, list(paths.variables)[:3])) + (", …" if len(paths.variables) > 3 else "")
            problems.append(f"{pattern!r}: matches no path; the paths are {some or 'none'}")
    return problems, hint


def _listed(problems: list[str]) -> str:
    if len(problems) == 1:
        return f"nothing has moved, since {problems[0]}"
    more = f"\n  … and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    return f"nothing has moved, since there are {len(problems)} problems:\n  " + "\n  ".join(problems[:_NAMED]) + more


@public()
def materialize(model: Any) -> None:
    """Makes the values of the variables in an object that were made in `deferred` and have none yet.

    Each value is made where its variable is: in shards, if it has a sharding. Variables that have a value keep it, so
    it can be called after `load` or a restore for whatever these left without one. It is no write: versions stay 0.
    Either all values are made, or none.

    Args:
        model: variables, containers of variables, or objects that have them as attributes.

    Raises:
        ConflictError: it is called in a transaction.
        InitializerError: a value cannot be made.

    >>> import statevar as sv
    >>> with sv.deferred():
    ...     v = sv.Variable("ones", shape=(2,), name="v")
    >>> sv.materialize(v)
    >>> v
    <Variable 'v' shape=(2,) dtype=float32 device=CPU:0 backend=numpy value=[1. 1.]>
    """
    waiting = [
        Move(each, each._backend, each._device, None, recipe)  # one that gets a value meanwhile keeps it
        for each in paths_in("materialize", model).variables.values()
        if not each.is_initialized and (recipe := recipe_of(each)) is not None
    ]
    for each in waiting:
        if each.recipe is not None and each.recipe.chosen and each.backend.is_sharded:
            check_seeded(each.cell._path, "materialize")
    move_all("materialize", sorted(waiting, key=_number))


@public()
def gather(x: Any) -> Any:
    """The whole value of a variable that is spread, as a NumPy array that nobody else has.

    If other processes have parts of it, it communicates: every process calls it, for the same variables in the same
    order, and each gets the whole value. Else it is `Variable.numpy`.

    Args:
        x: a variable; an array of a library, such as a gradient; a dict, list or tuple of these; or an object that has
            variables.

    Returns:
        A NumPy array; for a container one of the same form; for an object a dict of arrays by path.

    Raises:
        TraceError: it is called while code is traced.

    >>> import statevar as sv
    >>> sv.gather({"kernel": sv.Variable([1.0, 2.0])})
    {'kernel': array([1., 2.], dtype=float32)}
    """
    return tree_map(_gathered, x)


def _gathered(x: Any) -> Any:
    x = x.value if isinstance(x, FrozenVariable) else x
    if isinstance(x, Variable):
        if not x._backend.is_sharded:
            return x.numpy()
        current: Any = x._current() if overlays.active else x
        if not current._is_value:
            check_traced_read(x)
        return _whole(x._backend, current._stored(), x.path)
    owner = owner_of(x)
    if owner is None:
        return {path: _gathered(each) for path, each in paths_in("gather", x).variables.items()}
    spread: Any = owner.placement(x, None, None)
    return _whole(owner if spread is None else spread[0], x, "")


def _whole(backend: Any, array: Any, path: str) -> HostArray:
    if backend.is_symbolic(array) and not backend.is_host:
        problem = "the value is traced, and has no elements yet"
        raise TraceError.of("gather", problem, path, "gather outside of the traced code")
    if (name := backend.dtype_name(array)) in KEYS:
        raise keys_are_no_numbers("gather", name, path)
    host: HostArray = backend.gather(array) if backend.is_sharded else backend.to_host(array)
    return host if host.flags.owndata and host.flags.writeable else np.array(host)


@public()
def shard_batch(x: Any, mesh: Any = None, axis: Any = "data") -> Any:
    """Makes an array over a mesh of which this process gives its part, such as its examples of a batch.

    In one process the part is the whole. In several, each gives the same number of rows, and every process calls it.
    No rows are sent: each device gets rows of its own process. The processes compare the shapes of their parts, in
    messages of a few bytes, when they first give parts of these shapes.

    Args:
        x: an array of any library; or a dict, list or tuple of arrays.
        mesh: the mesh of the library; by default that of the `mesh` scope.
        axis: the mesh axis over which the first axis of each array is cut, or a tuple of several.

    Returns:
        An array of the library, such as a ``jax.Array`` or a ``DTensor``; or a container of the same form.

    Raises:
        ProcessError: another process does not call it, or only this one gives parts of another shape than before.
        ShapeError: an array has no axis.
        ShardingError: there is no mesh, it has no such axis, or the rows do not divide over its devices.

    Source: ``jax.make_array_from_process_local_data``, ``torch.distributed.tensor.DTensor.from_local``.

    >>> import numpy as np
    >>> import statevar as sv
    >>> sv.shard_batch(np.ones((4, 2)))
    Traceback (most recent call last):
        ...
    statevar.errors.ShardingError: shard_batch: there is no mesh. Hint: pass mesh=, or open sv.mesh(mesh).
    """
    mesh, plain, backend, sharding = _over_mesh("shard_batch", mesh, axis)
    parts = tree_map(lambda part: _part(plain, part), x)
    _compare_shapes(mesh, axis, [tuple(each.shape) for each in leaves(parts)])
    return tree_map(lambda part: _from_part(backend, sharding, part), parts)


def _from_part(backend: Any, sharding: Any, part: Any) -> Any:
    shape = tuple(part.shape)
    try:
        problem = None if current_world().count > 1 else backend.problem_with(shape, sharding)
        return backend.from_local(part, sharding) if problem is None else _misfit(shape, problem)
    except ShardingError as error:
        raise error._at("shard_batch", "") from None
    except ValueError as error:  # of the library, which knows what the parts of all processes make
        _misfit(shape, str(error))


def _misfit(shape: tuple[int, ...], problem: str) -> NoReturn:
    hint = "drop the last examples, or fill them up, so that the rows divide over the devices"
    raise ShardingError.of("shard_batch", f"a part of shape {shape} cannot be spread: {problem}", hint=hint)


@public()
def local_rows(count: int, mesh: Any = None, axis: Any = "data") -> slice:
    """The rows of a batch that this process reads, to give them to `shard_batch`.

    In one process they are all rows. Processes that have devices for the same rows, such as those that share the parts
    of a model, get the same. Nothing is sent.

    Args:
        count: the number of rows of the whole batch.
        mesh: the mesh of the library; by default that of the `mesh` scope.
        axis: the mesh axis over which the rows are cut, or a tuple of several.

    Returns:
        A slice of the whole batch.

    Raises:
        ShardingError: there is no mesh, it has no such axis, the rows do not divide over its devices, or those of this
            process do not follow one another.

    >>> import jax
    >>> import statevar as sv
    >>> mesh = jax.make_mesh((1,), ("data",))
    >>> sv.local_rows(64, mesh)
    slice(0, 64, None)
    """
    if not hasattr(count, "__index__") or (count := index(count)) < 0:
        raise TypeError(describe("local_rows", f"expected the number of rows of the whole batch, got {count!r}"))
    _, _, backend, sharding = _over_mesh("local_rows", mesh, axis)
    if problem := backend.problem_with((count,), sharding):
        raise ShardingError.of("local_rows", problem)
    blocks: list[tuple[int, int]] = []

    def read(offsets: Shape, sizes: Shape) -> HostArray:
        blocks.append((offsets[0], offsets[0] + sizes[0]))
        return np.zeros(sizes, "uint8")

    backend.from_pieces((count,), "uint8", sharding, read)
    blocks = sorted(set(blocks))
    if any(stop != start for (_, stop), (start, _) in pairwise(blocks)):
        problem = f"this process has rows of several places: {', '.join(f'{start}:{stop}' for start, stop in blocks)}"
        hint = "order the devices of the mesh by process, as the library does when it makes the mesh"
        raise ShardingError.of("local_rows", problem, hint=hint)
    return slice(blocks[0][0], blocks[-1][1])


def _over_mesh(operation: str, mesh: Any, axis: Any) -> tuple[Any, Any, Any, Any]:
    """The mesh, the adapter of its library, the adapter of what is spread, and the sharding over an axis."""
    mesh = current_mesh() if mesh is None else mesh
    if mesh is None:
        raise ShardingError.of(operation, "there is no mesh", hint="pass mesh=, or open sv.mesh(mesh)")
    plain = library_of(mesh)
    if plain is None:
        problem = f"expected a mesh of a library, got {type(mesh).__name__}"
        raise ShardingError.of(operation, problem, hint="pass a jax.sharding.Mesh or a DeviceMesh of torch")
    return mesh, plain, *asked_of(operation, plain, (axis,), mesh, "")


#: The shapes of the parts that all processes have given, by the id of the mesh, which is kept too, and its axis.
_given: dict[tuple[int, str, str], Any] = {}
_PATIENCE = 60.0  # seconds


def _compare_shapes(mesh: Any, axis: Any, shapes: list[tuple[int, ...]]) -> None:
    """Raises ShardingError if the parts of other processes have other shapes. Nothing is sent for known shapes."""
    key = id(mesh), repr(axis), repr(shapes)
    world = current_world()
    if world.count == 1 or key in _given:
        return
    found = exchange(world, "shard_batch", repr(shapes).encode(), seconds=_PATIENCE)
    different = [number for number, each in enumerate(found) if each != found[0]]
    if different:
        problem = f"process 0 gives parts of the shapes {found[0].decode()}, and process {different[0]} of "
        hint = "every process gives parts of the same shapes: drop the last examples, or fill them up"
        raise ShardingError.of("shard_batch", problem + found[different[0]].decode(), hint=hint)
    if len(_given) >= _MANY:
        _given.clear()
    _given[key] = mesh


def _part(plain: Any, x: Any) -> Any:
    """This process's part as an array of NumPy or of the library."""
    x = unwrapped(x)
    owner = owner_of(x)
    if owner is None:
        problem = f"expected an array, got {type(x).__name__}"
        raise TypeError(describe("shard_batch", problem, hint="a list is a container of arrays, so pass np.asarray(x)"))
    if owner is not plain:
        x = owner.to_host(x)
    shape = x.shape if owner is not plain else plain.shape(x)
    if not shape:
        raise ShapeError.of("shard_batch", "expected an array with an axis of examples, got shape ()")
    return x
