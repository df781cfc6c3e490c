"""What a read of a shared variable gives: an array of the library, on the memory of all processes where that can be.

Nobody can change through it what others see, in whichever way it is written.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from statevar import errors

from ..helpers import assert_same, host
from ..internals import HOST, shared_part

LARGE = 100_000  # of elements, whose values are not copied
NUMBERS = [name for name in HOST if name != "string"]


def pair(value: Any, backend: str, **more: Any) -> tuple[sv.Variable, sv.Variable]:
    """Two variables over one record, which stand for two processes."""
    name = f"run7/{np.size(value)}"
    first = sv.Variable(value, shared=name, backend=backend, **more)
    return first, sv.Variable(value, shared=name, backend=backend, **more)


def ones(backend: str, size: int = LARGE) -> tuple[sv.Variable, sv.Variable]:
    return pair(np.ones(size, np.float32), backend)


def address_of(array: Any, backend: str) -> int:
    if backend == "numpy":
        return int(array.ctypes.data)
    return int(array.data_ptr() if backend == "torch" else array.unsafe_buffer_pointer())


def file_at(address: int) -> str:
    """What the kernel has in memory at an address."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        where, *_, name = line.split(maxsplit=5)
        start, end = (int(each, 16) for each in where.split("-"))
        if start <= address < end:
            return name
    return ""


def own_memory() -> int:
    """The bytes that this process shares with no other."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


@pytest.mark.usefixtures("shm")
def test_large_values_are_read_without_a_copy(backend: str) -> None:
    v, _ = ones(backend)
    if backend == "tensorflow":  # it cannot be given memory
        assert_same(v.value, np.ones(LARGE))
        return
    assert "statevar" in file_at(address_of(v.value, backend))
    v.assign_add(1.0)
    assert "statevar" in file_at(address_of(v.value, backend))


@pytest.mark.usefixtures("shm")
def test_a_reader_has_next_to_no_memory_of_its_own(backend: str) -> None:
    if backend == "tensorflow":
        pytest.skip("TensorFlow copies")
    v = sv.Variable(np.zeros(8 << 20, np.float32), shared="run7/w", backend=backend)
    assert_same(v.value[:3], np.zeros(3))
    before = own_memory()
    read = v.value
    assert float(read.max() if backend != "torch" else read.numpy().max()) == 0
    assert own_memory() - before < 8 << 20


@pytest.mark.usefixtures("shm")
@pytest.mark.parametrize("dtype", NUMBERS)
def test_every_dtype_and_shape(backend: str, dtype: str) -> None:
    for shape in ((), (3,), (0, 2), (LARGE,)):
        value = np.ones(shape).astype(HOST[dtype])
        try:
            alone = sv.Variable(value, dtype=dtype, backend=backend)
        except errors.DTypeError:
            pytest.skip(f"{backend} has no {dtype}")
        name = f"run7/{len(shape)}-{value.size}"
        v = sv.Variable(value, dtype=dtype, shared=name, backend=backend)
        other = sv.Variable(value, dtype=dtype, shared=name, backend=backend)
        held = v.value
        assert type(held) is type(alone.value)
        assert (held.dtype, tuple(held.shape)) == (alone.value.dtype, tuple(alone.value.shape))
        assert_same(held, value, dtype=True)
        other.assign(np.zeros_like(value))
        assert_same(v.value, np.zeros_like(value), dtype=True)
        assert_same(held, value, dtype=True)


@pytest.mark.usefixtures("shm")
def test_text_is_refused() -> None:
    with pytest.raises(errors.DTypeError, match="values of dtype string have no fixed size"):
        sv.Variable(["a", "b"], shared="run7/w")


def all_that_is_on(v: sv.Variable, backend: str) -> list[Any]:
    """Arrays of all kinds that lie on the memory of a value."""
    value = v.value
    found: list[Any] = [value, value[5:10], value.reshape(100, -1)] if backend != "tensorflow" else [value]
    if backend == "numpy":
        found += [memoryview(value), np.asarray(value), value.view(np.uint32).view(np.float32), value[::-1]]
    elif backend == "torch":
        import torch.utils.dlpack

        found += [
            value.detach(),
            value.view(100, -1),
            value.numpy(),
            np.asarray(value),
            torch.utils.dlpack.from_dlpack(value),
        ]
        found += [memoryview(value.numpy()), np.from_dlpack(value), torch.nn.Parameter(value).data]
    elif backend == "jax":
        import jax
        import jax.numpy as jnp

        found += [np.asarray(value), jnp.asarray(value), np.from_dlpack(value), value.T]
        found += [jax.device_put(value, device) for device in jax.devices()]
        found += [jax.device_put(np.asarray(value), jax.devices()[0], may_alias=True)]
    else:
        import tensorflow as tf

        found += [tf.convert_to_tensor(value), tf.identity(value), tf.reshape(value, [100, -1]), value.numpy()]
    array: Any = np.asarray(v)
    found += [array, memoryview(array)]
    return found


@pytest.mark.usefixtures("shm")
def test_nothing_on_a_value_changes(backend: str) -> None:
    v, other = ones(backend)
    number = len(all_that_is_on(v, backend))
    for which in range(number):
        v.assign(np.ones(LARGE, np.float32))
        held = all_that_is_on(v, backend)[which]  # and nothing else is
        for _ in range(4):
            other.assign_add(1.0)
        array = np.asarray(held)
        assert array.min() == array.max() == 1, f"number {which}"


@pytest.mark.usefixtures("shm")
def test_other_libraries_read_an_array_of_numpy(backend: str) -> None:
    if backend == "numpy":
        pytest.skip("it is the same library")
    v, other = ones("numpy")
    takers: list[Callable[[Any], Any]]
    if backend == "torch":
        import torch.utils.dlpack

        takers = [torch.utils.dlpack.from_dlpack, lambda a: torch.utils.dlpack.from_dlpack(a)[5:]]
    elif backend == "jax":
        import jax
        import jax.numpy as jnp

        takers = [jnp.asarray, jax.device_put, lambda a: jax.device_put(a, may_alias=True)]
    else:
        import tensorflow as tf

        takers = [tf.convert_to_tensor, tf.constant, tf.Variable, lambda a: tf.reshape(a, [100, -1])]
    for take in takers:
        v.assign(np.ones(LARGE, np.float32))
        held = take(v.value)
        for _ in range(4):
            other.assign_add(1.0)
        array = np.asarray(held)
        assert array.min() == array.max() == 1


def writes_of_numpy() -> list[Callable[[Any], object]]:
    def through_an_address(array: Any) -> None:
        ctypes.memset(array.ctypes.data, 7, array.nbytes)

    def through_its_interface(array: Any) -> None:
        class Writable:
            __array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}  # noqa: RUF012

        np.asarray(Writable())[:] = 7

    return [through_an_address, through_its_interface]


def writes_of_torch() -> list[Callable[[Any], object]]:
    import torch.utils.dlpack

    def train(tensor: Any) -> None:
        parameter = torch.nn.Parameter(tensor)
        optimizer = torch.optim.SGD([parameter], lr=0.1)
        total: Any = parameter.sum()
        total.backward()
        optimizer.step()

    return [
        lambda x: x.add_(1),
        lambda x: x.__setitem__(0, 9),
        lambda x: x.data.zero_(),
        lambda x: x[3:7].mul_(5),
        lambda x: x.numpy().fill(3),
        lambda x: np.from_dlpack(x).fill(3),
        lambda x: torch.utils.dlpack.from_dlpack(x).fill_(3),
        lambda x: x.requires_grad_().data.fill_(3),
        lambda x: torch.nn.init.uniform_(x),
        lambda x: x.copy_(torch.zeros(())),
        train,
    ]


def writes_of(backend: str) -> list[Callable[[Any], object]]:
    if backend == "numpy":
        return writes_of_numpy()
    if backend == "torch":
        return writes_of_torch()
    return [partial(through_numpy, write) for write in writes_of_numpy()]


def through_numpy(write: Callable[[Any], object], array: Any) -> None:
    write(np.asarray(array))


@pytest.mark.usefixtures("shm")
def test_who_writes_an_array_writes_for_himself(backend: str) -> None:
    v, other = ones(backend)
    number = 1.0
    for write in writes_of(backend):
        mine = v.value
        before = other.value
        write(mine)
        assert host(mine).min() != 1 or host(mine).max() != 1
        for each in (before, other.value):
            assert host(each).min() == host(each).max() == number
        with sv.transaction(v):  # nor is it in what is written next
            v.at[0].add(1.0)
            v.at[0].subtract(1.0)
        v.assign_add(0.0)
        assert host(other.value).min() == host(other.value).max() == number
        del mine
        assert host(v.value).min() == host(v.value).max() == number


@pytest.mark.usefixtures("shm")
@pytest.mark.parametrize("size", [3, LARGE])
def test_a_written_tensor_is_not_read_again(size: int) -> None:
    torch = pytest.importorskip("torch")
    v, other = ones("torch", size)
    writes: list[Callable[[Any], object]] = [lambda x: x.add_(1), lambda x: x[0].fill_(9), lambda x: x.detach().zero_()]
    for write in writes:
        mine = v.value
        write(mine)
        assert_same(v.value, np.ones(size))
        assert_same(other.value, np.ones(size))
        with sv.transaction(v):
            within = v.value
            within.add_(1)
            assert_same(v.value, np.ones(size))
            v.at[0].add(1.0)
            v.value.zero_()
            v.at[0].subtract(1.0)
        assert_same(other.value, np.ones(size))
    again = v.value
    assert not again.requires_grad
    again.requires_grad_()
    assert not v.value.requires_grad
    with torch.inference_mode():
        assert_same(v.value, np.ones(size))
    loss: Any = (v.value.requires_grad_() * 2).sum()
    loss.backward()


@pytest.mark.own_process  # it forks
@pytest.mark.usefixtures("shm")
def test_a_child_writes_for_itself() -> None:
    """Which pages are copies, the kernel tells each process of its own memory."""
    v, other = ones("numpy")
    mine = v.value
    ctypes.memset(mine.ctypes.data, 7, 8)
    child = os.fork()
    if not child:  # pragma: no cover  # in another process
        good = other.value[0] == 1 and mine[0] != 1
        writes = writes_of_numpy()[0]
        for _ in range(3):
            array = other.value
            good = good and array.min() == array.max() == 1
            writes(array)
            del array
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert other.value.min() == other.value.max() == 1
    del mine
    assert v.value.min() == v.value.max() == 1


@pytest.mark.usefixtures("shm")
def test_no_further_mapping(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """The kernel gives a process some ten thousand mappings. After them, values are copied."""
    v, other = ones(backend)

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOMEM, "cannot map")

    monkeypatch.setattr(shared_part("opened").Opened, "own", fail)
    held = v.value
    other.assign_add(1.0)
    with sv.transaction(v):
        v.assign_add(1.0)
    assert host(held).min() == host(held).max() == 1
    assert host(other.value).min() == host(v.value).max() == 3


@pytest.mark.usefixtures("shm")
def test_a_kernel_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which pages were written is asked by a call of Linux 6.7. Without it every read has a mapping of its own."""
    monkeypatch.setattr(shared_part("opened"), "is_written", lambda *_: True)
    v, other = ones("numpy")
    for number in range(1, 5):
        mine = v.value
        assert mine.min() == mine.max() == number
        through_numpy(writes_of_numpy()[0], mine)
        other.assign_add(1.0)
        del mine


@pytest.mark.usefixtures("shm")
def test_numpy_refuses_to_write() -> None:
    for size in (3, LARGE):
        v, _ = pair(np.ones((size,), np.float32), "numpy")
        value = v.value
        for array in (value, value[1:], value.view(np.int32), np.asarray(value), np.ndarray(size, np.float32, value)):
            with pytest.raises(ValueError, match="cannot set WRITEABLE"):
                array.setflags(write=True)
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 5
        for view in (memoryview(value), memoryview(value).cast("B"), memoryview(value.view(np.uint8))):
            assert view.readonly
            with pytest.raises(TypeError, match="read-only"):
                view[0] = 1
        with pytest.raises(ValueError, match="read-only"):
            np.frombuffer(value, np.float32)[0] = 1
        with pytest.raises(ValueError, match="read-only"):
            np.lib.stride_tricks.as_strided(value, (2,), (4,))[0] = 1
        assert_same(v.value, np.ones(size))


@pytest.mark.usefixtures("shm")
def test_a_value_of_jax_is_donated() -> None:
    jax = pytest.importorskip("jax")
    for size in (3, LARGE):
        v, other = ones("jax", size)
        double = jax.jit(lambda x: x * 2, donate_argnums=0)
        assert_same(double(v.value), np.full(size, 2))
        assert_same(v.value, np.ones(size))
        held = other.value
        v.assign(double(v.value))
        assert_same(other.value, np.full(size, 2))
        assert_same(held, np.ones(size))
        v.assign(np.ones(size, np.float32))
