"""Mistakes that an adapter of boxarray can make, and the tests of `statevar.testing` that must notice each."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from statevar.backends import AT_OPERATIONS
from tests.internals import registry

Patch = pytest.MonkeyPatch


class Fault(NamedTuple):
    """A mistake: how to make it, and which tests notice."""

    make: Callable[[Patch, Any, Any], None]
    noticed_by: tuple[str, ...]


FAULTS: dict[str, Fault] = {}


def fault(*noticed_by: str) -> Callable[[Callable[[Patch, Any, Any], None]], None]:
    """Adds a function that breaks an adapter, given the adapter and its library."""

    def add(make: Callable[[Patch, Any, Any], None]) -> None:
        FAULTS[make.__name__.removeprefix("_")] = Fault(make, noticed_by)

    return add


def box_over(memory: Any, dtype: Any) -> Any:
    """A box that shares its memory, as no box should."""
    box = object.__new__(importlib.import_module("boxarray").Box)
    box._memory, box.dtype, box.shape = memory, dtype, memory.shape
    return box


def overwrite(box: Any, values: Any) -> None:
    """Changes an immutable box."""
    box._memory.flags.writeable = True
    box._memory[...] = values


# -- whose is it -------------------------------------------------------------------------------------------


@fault("test_backend_is_registered", "test_copies_and_pickles")
def _goes_by_another_name(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "name", "box", raising=False)


@fault("test_owns_its_arrays_and_no_others")
def _owns_everything(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "owns", lambda value: True)


@fault("test_random_numbers_are_those_of_numpy")
def _draws_other_numbers(patch: Patch, adapter: Any, library: Any) -> None:
    draws = adapter.draws()
    own = draws.draw
    draws.draw = lambda state, *arguments: own(draws.after(state, 1), *arguments)
    patch.setitem(registry._draws, adapter.name, draws)


# -- dtypes, shapes and devices ----------------------------------------------------------------------------


@fault("test_dtypes_are_held_or_refused")
def _replaces_dtypes_it_lacks(patch: Patch, adapter: Any, library: Any) -> None:
    known = adapter.dtype
    patch.setattr(adapter, "dtype", lambda name: known(name if name != "complex64" else "float32"))


@fault("test_dtypes_are_held_or_refused")
def _raises_key_errors(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "dtype", lambda name: {"float32": library.float32}[name])


@fault("test_default_dtypes_are_held_and_of_the_same_kind")
def _narrows_a_dtype_it_has(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "default_dtype", lambda name: "float32" if name == "float64" else name)


@fault("test_default_dtypes_are_held_and_of_the_same_kind")
def _narrows_to_another_kind(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "default_dtype", lambda name: "float32" if name == "complex64" else name)


@fault("test_dtype_names_round_trip", "test_variable_follows_its_library")
def _calls_every_dtype_float32(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "dtype_name", lambda array: "float32")


@fault("test_shapes_are_tuples_of_ints")
def _gives_shapes_as_lists(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "shape", lambda array: list(array.shape))


@fault("test_devices_have_names_that_lead_back")
def _takes_any_device_for_its_own(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "device", lambda name: "cpu")


@fault("test_it_is_shown")
def _cannot_name_its_device(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "device_name", lambda device: device.name)


# -- conversion --------------------------------------------------------------------------------------------


@fault("test_operand_takes_only_its_own_arrays_of_the_dtype")
def _takes_operands_of_any_dtype(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "operand", lambda value, dtype: value if adapter.owns(value) else None)


@fault("test_from_host_does_not_alias")
def _aliases_the_callers_array(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "from_host", lambda array, device: box_over(array, adapter.dtype(array.dtype.name)))


@fault("test_from_host_and_to_host_round_trip")
def _loses_the_minus_of_zero(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "to_host", lambda array: array.unbox() + np.zeros((), array.unbox().dtype))


@fault("test_values_of_other_libraries_are_taken", "test_uninitialized", "test_create")
def _drops_what_comes_from_the_host(patch: Patch, adapter: Any, library: Any) -> None:
    real = adapter.from_host
    patch.setattr(adapter, "from_host", lambda array, device: real(np.zeros_like(array), device))


@fault("test_over_host_keeps_what_it_shows")
def _shows_nothing_over_the_host(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "over_host", lambda array, device: adapter.from_host(np.zeros_like(array), device))


@fault("test_to_host_cannot_change_the_array", "test_dlpack_cannot_change_the_array")
def _lends_its_memory_for_writing(patch: Patch, adapter: Any, library: Any) -> None:
    def to_host(array: Any) -> Any:
        array._memory.flags.writeable = True
        return array._memory

    patch.setattr(adapter, "to_host", to_host)
    patch.setattr(adapter, "dlpack", lambda array, request: to_host(array).__dlpack__(**request))


@fault("test_receive")
def _receives_what_it_was_given(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "import_array", lambda array, dtype=None: array)


@fault("test_beside", "test_operators_stay_with_the_library")
def _leaves_numpy_beside_its_arrays(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "as_other_operand", lambda array: array)


@fault("test_cast", "test_widening_casts_are_done", "test_autocast_changes_reads_only")
def _forgets_to_cast(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "cast", lambda array, dtype: array)


@fault("test_in_range", "test_no_cast_is_lossy_in_silence")
def _casts_in_silence(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "in_range", lambda before, after: True)


@fault("test_namespace")
def _makes_a_namespace_for_each_call(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "namespace", object)


@fault("test_round_goes_to_even")
def _rounds_half_up(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "round", lambda array, n: library.Box(np.floor(array.unbox() + 0.5), array.dtype))


# -- a handle's life ---------------------------------------------------------------------------------------


def _write_in_place(patch: Patch, adapter: Any, *verbs: str) -> None:
    """Makes verbs change the box that readers hold, which is also the operand that was assigned."""
    for verb in verbs:
        real = getattr(adapter, verb)

        def write(handle: Any, x: Any, op: Any = None, where: Any = None, real: Any = real) -> Any:
            new = real(handle, x, op, where).published
            if new.shape != handle.published.shape:
                return type(handle)(new)
            overwrite(handle.published, new.unbox())
            return handle

        patch.setattr(adapter, verb, write)


@fault("test_snapshot_never_changes", "test_apply_leaves_what_was_read", "test_apply_to_large_values")
def _changes_snapshots_by_apply(patch: Patch, adapter: Any, library: Any) -> None:
    _write_in_place(patch, adapter, "apply")


@fault("test_snapshot_never_changes", "test_read_is_a_snapshot", "test_handles_do_not_share")
def _changes_snapshots_by_put(patch: Patch, adapter: Any, library: Any) -> None:
    _write_in_place(patch, adapter, "put")


@fault("test_snapshot_never_changes", "test_no_read_is_torn")
def _changes_snapshots_by_assign(patch: Patch, adapter: Any, library: Any) -> None:
    _write_in_place(patch, adapter, "assign")


@fault("test_reader_cannot_write")
def _lets_readers_write(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(library.Box, "__setitem__", lambda box, index, value: overwrite(box, value), raising=False)


@fault("test_create_from")
def _makes_first_values_of_zeros(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(
        adapter,
        "create_from",
        lambda first, **options: adapter.create(adapter.from_host(np.zeros_like(first.to_host()), None), **options),
    )


@fault("test_create", "test_assign_and_redeclare", "test_put")
def _publishes_something_else(patch: Patch, adapter: Any, library: Any) -> None:
    class Handle:
        def __init__(self, box: Any) -> None:
            self.box = box
            self.published = library.Box(0, box.dtype)

    patch.setattr(importlib.import_module("statevar_box"), "_Handle", Handle)
    patch.setattr(adapter, "snapshot", lambda handle: handle.box)


@fault("test_assign_and_redeclare", "test_assign_within_an_open_shape", "test_shape_may_change_where_it_may")
def _keeps_the_first_shape(patch: Patch, adapter: Any, library: Any) -> None:
    def assign(handle: Any, x: Any, op: Any = None, where: Any = None) -> Any:
        kept = np.resize(x.unbox(), handle.published.shape)
        return type(handle)(library.Box(kept, x.dtype))

    patch.setattr(adapter, "assign", assign)
    patch.setattr(adapter, "redeclare", assign)


@fault("test_apply")
def _widens_by_computing(patch: Patch, adapter: Any, library: Any) -> None:
    real = adapter.compute
    patch.setattr(adapter, "compute", lambda old, x, op: real(old, x, op).astype(library.float64))


@fault("test_no_update_is_lost_between_threads")
def _drops_an_update_now_and_then(patch: Patch, adapter: Any, library: Any) -> None:
    real, count = adapter.apply, iter(range(1_000_000))

    def apply(handle: Any, x: Any, op: Any, where: Any = None) -> Any:
        return handle if next(count) % 1000 == 999 else real(handle, x, op, where)

    patch.setattr(adapter, "apply", apply)


@fault("test_no_update_is_lost_between_threads")
def _keeps_state_beside_its_handles(patch: Patch, adapter: Any, library: Any) -> None:
    real, scratch = adapter.apply, {}

    def apply(handle: Any, x: Any, op: Any, where: Any = None) -> Any:
        scratch["handle"] = handle
        time.sleep(0)  # another thread comes between
        return real(scratch["handle"], x, op, where)

    patch.setattr(adapter, "apply", apply)


@fault("test_put", "test_compute_put", "test_put_takes_every_dtype")
def _forgets_duplicates(patch: Patch, adapter: Any, library: Any) -> None:
    def compute_put(old: Any, x: Any, kind: str, where: Any) -> Any:
        new, ufunc = np.array(old.unbox()), AT_OPERATIONS[kind]
        new[where.index] = x.unbox() if ufunc is None else ufunc(new[where.index], x.unbox())
        return library.Box(new, old.dtype)

    patch.setattr(adapter, "compute_put", compute_put)


@fault("test_put", "test_compute_put")
def _keeps_the_first_of_duplicates(patch: Patch, adapter: Any, library: Any) -> None:
    real = adapter.compute_put

    def compute_put(old: Any, x: Any, kind: str, where: Any) -> Any:
        if kind != "set" or where.basic:
            return real(old, x, kind, where)
        new = np.array(old.unbox())
        values = np.broadcast_to(x.unbox(), where.shape).ravel()[::-1]
        new.flat[where.flat().ravel()[::-1]] = values
        return library.Box(new, old.dtype)

    patch.setattr(adapter, "compute_put", compute_put)


@fault("test_put_lets_nan_through")
def _loses_nan(patch: Patch, adapter: Any, library: Any) -> None:
    real = adapter.compute_put

    def compute_put(*arguments: Any) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            inner.setitem(AT_OPERATIONS, "min", np.fmin)
            inner.setitem(AT_OPERATIONS, "max", np.fmax)
            return real(*arguments)

    patch.setattr(adapter, "compute_put", compute_put)


@fault("test_compute", "test_compute_put", "test_failed_write_changes_nothing")
def _computes_in_place(patch: Patch, adapter: Any, library: Any) -> None:
    for verb in ("compute", "compute_put"):
        real = getattr(adapter, verb)

        def compute(old: Any, *rest: Any, real: Any = real) -> Any:
            new = real(old, *rest)
            if new.shape == old.shape:
                overwrite(old, new.unbox())
            return new

        patch.setattr(adapter, verb, compute)


@fault("test_constraint")
def _ignores_what_is_computed(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "compute", lambda old, x, op: old)


@fault("test_get", "test_items_are_read_as_numpy_reads_them")
def _ignores_negative_steps(patch: Patch, adapter: Any, library: Any) -> None:
    real = adapter.get

    def get(array: Any, where: Any) -> Any:
        got = real(array, where)
        return library.Box(got.unbox()[::-1], got.dtype) if where.reverses else got

    patch.setattr(adapter, "get", get)


@fault("test_trainable_and_parameter")
def _counts_writes_that_were_not(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "unseen_writes", lambda handle: 1)


# -- several steps as one ------------------------------------------------------------------------------------


@fault("test_fork_is_written_apart_and_adopted", "test_transaction_happens_whole_or_not")
def _forgets_what_it_adopts(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "adopt", lambda handle, other: handle)


@fault("test_fork_is_written_apart_and_adopted")
def _forks_the_present(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "fork", lambda handle, array: handle)


@fault("test_given_is_a_fork", "test_update_and_edit")
def _loses_what_it_is_given(patch: Patch, adapter: Any, library: Any) -> None:
    patch.setattr(adapter, "fork_from_host", lambda handle, array: adapter.fork(handle, adapter.snapshot(handle)))


@fault("test_adopt_takes_any_shape", "test_transaction_happens_whole_or_not")
def _adopts_its_own_shape_only(patch: Patch, adapter: Any, library: Any) -> None:
    def adopt(handle: Any, other: Any) -> Any:
        return other if adapter.snapshot(other).shape == adapter.snapshot(handle).shape else handle

    patch.setattr(adapter, "adopt", adopt)
