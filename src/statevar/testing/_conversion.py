"""Tests the first half of `statevar.backends.Backend`: ownership, dtypes, shapes, devices and conversion."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._arrays.backend import Backend
from .._arrays.dtypes import HOST, dtype_kind
from .._arrays.registry import backend_names, owner_of
from .._arrays.types import HostArray
from ..errors import DeviceError, DTypeError
from ._base import SuiteBase
from ._cases import NUMERIC, SHAPES, aligned, cast, counted, small
from ._checks import expect, raises, same, scribble

__all__ = ["Conversion"]


class Conversion(SuiteBase):
    """Tests of the verbs that take arrays and no handles."""

    # -- ownership ----------------------------------------------------------------------------------

    def test_backend_is_registered(self) -> None:
        expect(isinstance(self.adapter, Backend), f"{self.adapter!r} is not an instance of Backend")
        expect(self.adapter.name == self.backend, f"name is {self.adapter.name!r}, registered as {self.backend!r}")
        expect(self.backend in backend_names(), f"{self.backend!r} is not in backend_names()")

    def test_owns_its_arrays_and_no_others(self) -> None:
        array = self.native(counted((2, 3), "float32"))
        expect(self.adapter.owns(array), f"owns: returns False for its own {type(array).__name__}")
        expect(
            owner_of(array) is self.adapter,
            f"owner_of: does not return this adapter for {type(array)!r}: is the module registered?",
        )
        foreign: list[Any] = [None, 1.0, "name", [1.0, 2.0], object()]
        if not self.adapter.is_host:
            foreign.append(np.ones(2))
        for value in foreign:
            expect(not self.adapter.owns(value), f"owns: returns True for {value!r}, which is not of the library")

    # -- dtypes, shapes and devices -------------------------------------------------------------------

    def test_dtypes_are_held_or_refused(self) -> None:
        for name in ("bool", "int32", "float32", *self.dtypes):
            expect(self.holds_dtype(name), f"dtype: refuses {name}, which is required")
        for name in [name for name in HOST if name not in self.held()]:
            with raises(DTypeError, f"dtype({name!r})", saying=name):
                self.adapter.dtype(name)

    def test_dtype_names_round_trip(self) -> None:
        for name in self.held():
            array = self.native(small((2, 3), name))
            got = self.adapter.dtype_name(array)
            expect(got == name, f"dtype_name: {got!r} for an array made as {name}")
            known = self.adapter.operand(array, self.adapter.dtype(name))
            expect(known is not None, f"operand: refuses a {name} array with the dtype of dtype({name!r})")

    def test_default_dtypes_are_held_and_of_the_same_kind(self) -> None:
        for name in HOST:
            default = self.adapter.default_dtype(name)
            if name in self.held():
                expect(default == name, f"default_dtype: {default!r} for {name}, which the library has")
            elif default != name:
                expect(default in self.held(), f"default_dtype: {default!r} for {name}, and dtype refuses it")
                kinds = dtype_kind(default), dtype_kind(name)
                expect(kinds[0] == kinds[1], f"default_dtype: {default!r} for {name} is of another kind")

    def test_shapes_are_tuples_of_ints(self) -> None:
        for shape in SHAPES:
            got = self.adapter.shape(self.native(counted(shape, "float32")))
            expect(
                type(got) is tuple and all(type(size) is int for size in got), f"shape: {got!r} is not a tuple of ints"
            )
            expect(got == shape, f"shape: {got}, expected {shape}")

    def test_devices_have_names_that_lead_back(self) -> None:
        handle = self.handle(counted((2,), "float32"))
        device = self.adapter.device_of(self.adapter.snapshot(handle))
        name = self.adapter.device_name(device)
        expect(isinstance(name, str), f"device_name: {name!r} is not a string")
        expect(self.adapter.device(name) == device, f"device: {name!r} does not give its device, {device!r}")
        expect(self.adapter.device(device) == device, f"device: does not accept its own {device!r}")
        expect(
            self.adapter.device_of_handle(handle) == device,
            "device_of_handle: differs from device_of of the snapshot",
        )
        placed = self.variable([1.0, 2.0], device=name)
        expect(placed.device == device, f"a variable for device {name!r} is on {placed.device!r}")
        same(placed.to(name).numpy(), np.array([1.0, 2.0], np.float32), "relocated, to where it is")
        known = self.adapter.devices()
        expect(device in known, f"devices: {known!r} does not have {device!r}, where a variable is")
        for each in known:
            expect(self.adapter.device(each) == each, f"device: does not accept {each!r}, one of its devices")
            expect(self.adapter.holds(each, "float32"), f"holds: {each!r} does not store float32")
        self.adapter.device(None)
        for unknown in ("nowhere:0", "CPU:999", "3"):
            with raises(DeviceError, f"device({unknown!r})"):
                self.adapter.device(unknown)

    # -- conversion ------------------------------------------------------------------------------------

    def test_operand_takes_only_its_own_arrays_of_the_dtype(self) -> None:
        dtype = self.adapter.dtype("float32")
        taken = self.adapter.operand(self.native(counted((2,), "float32")), dtype)
        expect(taken is not None, "operand: refuses an array of the library with the dtype")
        same(self.host(taken), counted((2,), "float32"), "operand")
        refused: list[Any] = [self.native(counted((2,), "int32")), 1.0, [1.0, 2.0], None]
        if not self.adapter.is_host:
            refused.append(counted((2,), "float32"))
        for value in refused:
            expect(self.adapter.operand(value, dtype) is None, f"operand: accepts {value!r} as float32")

    def test_from_host_does_not_alias(self) -> None:
        for shape in SHAPES:
            mine = aligned(counted(shape, "float32"))
            for verb, handle in self.written_from(mine):
                expected = self.value(handle)
                mine[...] = 99
                same(
                    self.value(handle),
                    expected,
                    f"{verb}: after the caller changed the array that it had passed, {shape}",
                )
                mine[...] = counted(shape, "float32")

    def test_from_host_and_to_host_round_trip(self) -> None:
        for name, shape in self.shapes_and_dtypes():
            same(self.host(self.native(small(shape, name))), small(shape, name), f"to_host, {name} {shape}")
        transposed: HostArray = counted((3, 4), "float32").T
        for strange in (transposed, counted((6,), "float32")[::-2], np.full((), 2.5, np.float32)):
            for verb, handle in self.written_from(strange):
                same(self.value(handle), strange, f"{verb} of an array with strides {strange.strides}")
        with np.errstate(all="ignore"):
            extremes = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38], np.float32)
        got = self.host(self.native(extremes))
        same(got, extremes, "to_host of extremes")
        same(np.signbit(got[3]), True, "to_host of minus zero")

    def test_over_host_keeps_what_it_shows(self) -> None:
        for dtype in self.held("bool", "int", "uint", "float", "complex"):
            for shape in ((), (3,), (0, 2)):
                memory = aligned(small(shape, dtype))
                memory.setflags(write=False)
                x = self.adapter.over_host(memory, self.adapter.device("CPU:0"))
                del memory  # only the array keeps it now
                expect(self.adapter.owns(x), f"over_host: gave {type(x).__name__}")
                same(self.host(x), small(shape, dtype), f"over_host of {dtype}, shape {shape}")

    def test_to_host_cannot_change_the_array(self) -> None:
        handle = self.handle(counted((3,), "float32"))
        scribble(self.adapter.to_host(self.adapter.snapshot(handle)))
        same(self.value(handle), counted((3,), "float32"), "to_host: after its result was written")

    def test_receive(self) -> None:
        mine = counted((2, 3), "float32")
        mine.flags.writeable = False
        array = self.adapter.import_array(mine)
        expect(self.adapter.owns(array), f"import_array: returns a {type(array).__name__}")
        same(self.host(array), mine, "import_array")
        again = self.adapter.import_array(array)
        expect(self.adapter.owns(again), f"import_array: returns a {type(again).__name__}")
        same(self.host(again), mine, "import_array of its own array")

    def test_beside(self) -> None:
        left, right = counted((2, 3), "float32"), counted((3,), "float32", start=5)
        sums = {
            "array + as_other_operand(host)": self.native(left) + self.adapter.as_other_operand(right),
            "as_other_operand(host) + array": self.adapter.as_other_operand(right) + self.native(left),
        }
        for what, got in sums.items():
            expect(self.adapter.owns(got), f"as_other_operand: {what} returns a {type(got).__name__}")
            same(self.host(got), left + right, f"as_other_operand: {what}")

    def test_cast(self) -> None:
        held = self.held(*NUMERIC, "bool")
        # From int32 to every dtype, and from every dtype to float32 and complex128. No caller casts complex to real.
        pairs = [("int32", name) for name in held]
        pairs += [(name, "float32") for name in held if dtype_kind(name) != "complex"]
        pairs += [(name, "complex128") for name in held if "complex128" in held]
        for source, target in pairs:
            host = small((2, 3), source) if target == "bool" else cast(small((2, 3), "int32"), source)
            array = self.native(host)
            got = self.adapter.cast(array, self.adapter.dtype(target))
            expect(self.adapter.owns(got), f"cast from {source} to {target}: returns a {type(got).__name__}")
            same(self.host(got), cast(host, target), f"cast from {source} to {target}")
            expect(self.adapter.dtype_name(got) == target, f"cast: dtype_name is not {target}")

    def test_in_range(self) -> None:
        for source, target, value, fits in (
            ("int32", "int8", 127, True),
            ("int32", "int8", 128, False),
            ("int32", "uint8", -1, False),
            ("int32", "uint16", -1, False),
            ("int32", "uint32", -1, False),
            ("int32", "uint32", 2**31 - 1, True),
            ("uint32", "int32", 2**31, False),
            ("int64", "uint64", -1, False),
            ("int64", "uint64", 2**62, True),
            ("uint64", "int64", 2**63, False),
            ("int32", "float16", 65504, True),
            ("int32", "float16", 70000, False),
            ("float32", "float16", 65504.0, True),
            ("float32", "float16", 1e30, False),
            ("float32", "float16", np.inf, True),
            ("float32", "float16", np.nan, True),
            ("float64", "float32", -1e300, False),
            ("complex128", "complex64", 1e300j, False),
        ):
            if not {source, target} <= set(self.held()):
                continue
            before = self.native(np.array([1, value, 2], HOST[source]))
            with np.errstate(all="ignore"):
                after = self.adapter.cast(before, self.adapter.dtype(target))
                got = self.adapter.in_range(before, after)
            expect(got is fits, f"in_range: {got!r} for {value} of {source} cast to {target}, expected {fits}")

    def test_namespace(self) -> None:
        variable, theirs = self.variable([1.0]), self.adapter.namespace()
        expect(theirs is self.adapter.namespace(), f"namespace: returns another object at each call, {theirs!r}")
        ours = variable.__array_namespace__()
        expect(
            ours == theirs and hash(ours) == hash(theirs), f"namespace: {ours!r} is not equal to that of the adapter"
        )

    def test_round_goes_to_even(self) -> None:
        host = np.array([0.5, 1.5, -2.5, 0.25, -1.75], np.float32)
        for decimals in (0, 1):
            got = self.adapter.round(self.native(host), decimals)
            same(self.host(got), host.round(decimals), f"round to {decimals} decimals", rtol=1e-6)

    def test_dlpack_cannot_change_the_array(self) -> None:
        variable = self.variable(counted((2, 3), "float32"), trainable=False)
        try:
            device, _ = variable.__dlpack_device__()
            if device != 1:
                self.skip("the array is not on the CPU, and this test reads it with NumPy")
            got = np.from_dlpack(variable)
        except (AttributeError, BufferError, NotImplementedError) as error:
            self.skip(f"the library has no DLPack: {error}")
        same(got, counted((2, 3), "float32"), "dlpack")
        scribble(got)
        same(variable.numpy(), counted((2, 3), "float32"), "dlpack: after the consumer wrote to its array")
