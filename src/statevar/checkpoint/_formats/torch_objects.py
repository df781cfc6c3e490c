"""The objects in a pickle of torch, read as data: tensors and their storages, dtypes, arrays of NumPy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..._arrays.dtypes import HOST
from ..._arrays.shapes import Shape
from .pickles import BUILTINS, Name, Named

__all__ = ["NAMES", "Array", "Dtype", "Storage", "Tensor", "Unreadable", "are_sizes", "stored"]


class Dtype(Name):
    """A dtype of torch, or the class of a storage.

    Attributes:
        name: our name of the dtype, or what torch calls one that we do not have; None for a storage of mere bytes.
    """

    __slots__ = ("name",)

    def __init__(self, full: str, name: str | None) -> None:
        super().__init__(full)
        self.name = name


class Storage(NamedTuple):
    """The memory of one or several tensors, which is a member of the archive.

    Attributes:
        key: the name of the member in the folder ``data``.
        dtype: the dtype of its elements; None for bytes.
        elements: the number of its elements.
    """

    key: str
    dtype: str | None
    elements: int


class Tensor(NamedTuple):
    """A tensor, which is a part of a storage. Two tensors that are equal are one in memory.

    Attributes:
        storage: its storage.
        dtype: the name of its dtype.
        offset: the index of its first element in the storage.
        shape: its shape.
        strides: the distances between neighbours on each axis, in elements.
        changes: what torch applies when the tensor is read: ``conj``, ``neg``.
    """

    storage: Storage
    dtype: str
    offset: int
    shape: Shape
    strides: Shape
    changes: tuple[str, ...]


class Unreadable(NamedTuple):
    """A tensor that cannot be read as an array, and why."""

    kind: str
    shape: Shape
    why: str


class Array:
    """An array of NumPy, whose bytes are in the pickle."""

    __slots__ = ("content", "dtype", "fortran_order", "shape")

    def __init__(self, dtype: Any = None, shape: Any = (), content: Any = b"", *, fortran_order: bool = False) -> None:
        self.dtype = dtype
        self.shape = shape
        self.content = content
        self.fortran_order = fortran_order

    def value(self) -> np.ndarray[Any, Any]:
        """Returns the array in new memory."""
        dtype = _numpy_dtype(self.dtype)
        flat = np.frombuffer(self.content, dtype).astype(dtype.newbyteorder("="))
        return np.asarray(flat.reshape(self.shape, order="F" if self.fortran_order else "C"), order="C")

    def facts(self) -> tuple[str, Shape] | None:
        """Returns the dtype and the shape, if the bytes are those of such an array; None otherwise."""
        dtype, shape = _numpy_dtype(self.dtype), self.shape
        if type(shape) is not tuple or not all(type(each) is int and each >= 0 for each in shape) or len(shape) > 64:
            return None
        count = 1
        for each in shape:
            count *= each
        if dtype is None or type(self.content) is not bytes or len(self.content) != count * dtype.itemsize:
            return None
        return dtype.name, shape


def stored(identifier: Any) -> Storage:
    """Returns the storage that an identifier in the pickle names."""
    tag, kind, key, _, count = identifier
    if tag != "storage" or type(kind) is not Dtype or type(key) is not str or type(count) is not int or count < 0:
        raise TypeError("a storage")
    return Storage(key, kind.name, count)


# -- what torch calls --------------------------------------------------------------------------------------------------


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor | Unreadable:
    """``_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata)``."""
    if type(storage) is not Storage or storage.dtype is None:
        raise TypeError("a tensor without a storage")
    return _made(storage, storage.dtype, offset, shape, strides, rest[2] if len(rest) > 2 else None)


def _tensor_of_bytes(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, metadata: Any = None
) -> Tensor | Unreadable:
    """``_rebuild_tensor_v3``, for dtypes that have no class of storages."""
    if type(storage) is not Storage or type(dtype) is not Dtype or dtype.name is None:
        raise TypeError("a tensor without a storage")
    return _made(storage, dtype.name, offset, shape, strides, metadata)


def _made(storage: Storage, dtype: str, offset: Any, shape: Any, strides: Any, metadata: Any) -> Tensor | Unreadable:
    if type(offset) is not int or not are_sizes(shape) or not are_sizes(strides):
        raise TypeError("a tensor without a shape")
    changes = tuple(sorted(key for key, value in (metadata or {}).items() if value is True))
    if dtype not in _READABLE:
        return Unreadable(dtype, shape, f"no variable has torch's dtype {dtype}: convert the tensor before saving it")
    if set(changes) - {"conj", "neg"}:
        return Unreadable(dtype, shape, f"it has marks that are not known: {', '.join(changes)[:100]}")
    return Tensor(storage, dtype, offset, shape, strides, changes)


def are_sizes(value: Any) -> bool:
    """Whether a value is a shape: a tuple of integers that are not negative."""
    return type(value) is tuple and len(value) <= 64 and all(type(each) is int and each >= 0 for each in value)


def _parameter(data: Any, *_: Any) -> Any:
    if type(data) not in (Tensor, Unreadable, Array):
        raise TypeError("a parameter without a tensor")
    return data


def _of_a_type(function: Any, kind: Any, args: Any, state: Any) -> Any:
    """``_rebuild_from_type_v2``: a tensor of a subclass, or one with attributes, which are left out."""
    if not isinstance(function, Name) or function.make is None or type(args) is not tuple:
        raise TypeError("a tensor of a subclass")
    return _parameter(function.make(*args))


def _sparse(layout: Any, data: Any) -> Unreadable:
    shape = next((each for each in data[::-1] if are_sizes(each)), ())
    values = next((each.dtype for each in data[1:] if type(each) is Tensor), "sparse")
    name = str(layout).removeprefix("torch.")
    return Unreadable(values, shape, f"a sparse tensor ({name:.20}) is no array: save x.to_dense()")


def _quantized(storage: Any, offset: Any, shape: Any, *_: Any) -> Unreadable:
    kind = storage.dtype if type(storage) is Storage else "quantized"
    return Unreadable(str(kind), shape if are_sizes(shape) else (), "a quantized tensor: save x.dequantize()")


def _meta(dtype: Any, shape: Any, *_: Any) -> Unreadable:
    kind = dtype.name if type(dtype) is Dtype else "meta"
    return Unreadable(str(kind), shape if are_sizes(shape) else (), "a tensor on the device meta has no values")


def _nested(buffer: Any, *_: Any) -> Unreadable:
    kind = buffer.dtype if type(buffer) is Tensor else "nested"
    return Unreadable(kind, (), "a nested tensor is no array: save x.unbind()")


def _subclass(kind: Any, dtype: Any, shape: Any, *_: Any) -> Unreadable:
    return Unreadable(
        "unknown", shape if are_sizes(shape) else (), "a tensor of a subclass: save it as an ordinary one"
    )


def _size(items: Any = ()) -> Shape:
    if not are_sizes(items):
        raise TypeError("a size")
    return tuple(items)


def _device(*args: Any) -> str:
    return ":".join(str(each)[:20] for each in args[:2])


def _layout(name: Any) -> str:
    return str(name)[:40]


# -- what NumPy calls --------------------------------------------------------------------------------------------------


def _array(kind: Any, shape: Any, code: Any) -> Named:
    """``_reconstruct(ndarray, (0,), b"b")``, an array that the state then fills."""
    return Named("numpy.array", ())


def _array_of_bytes(content: Any, dtype: Any, shape: Any, order: Any) -> Array:
    return Array(dtype, shape, content, fortran_order=order == "F")


def _scalar(dtype: Any, content: Any) -> Any:
    found = Array(dtype, (), content)
    return found.value().item() if found.facts() is not None else found


def _numpy_dtype(named: Any) -> Any:
    """The dtype that a pickle describes by its code and its byte order; None if it is none of ours."""
    if not isinstance(named, Named) or named.name != "numpy.dtype" or not named.args:
        return None
    code, state = named.args[0], named.state
    order = state[1] if type(state) is tuple and len(state) > 1 else "="
    if type(code) is not str or re.fullmatch("[biufc][0-9]{1,2}", code) is None or order not in ("<", ">", "|", "="):
        return None
    try:
        dtype = np.dtype(order + code)
    except TypeError:
        return None
    return dtype if dtype.name in HOST else None


def _named(name: str) -> Callable[..., Named]:
    return lambda *args: Named(name, args)


# -- the table ---------------------------------------------------------------------------------------------------------

_STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexDouble": "complex128",
    "ComplexFloat": "complex64",
    "QUInt8": "quint8",
    "QInt8": "qint8",
    "QInt32": "qint32",
    "QUInt4x2": "quint4x2",
    "QUInt2x4": "quint2x4",
    "Untyped": None,
}
_SYNONYMS = {"double": "float64", "float": "float32", "half": "float16", "long": "int64", "int": "int32"}
_SYNONYMS |= {"short": "int16", "cfloat": "complex64", "cdouble": "complex128"}
_FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
_READABLE = {*(name for name in HOST if name not in ("string", "int4", "uint4")), *_FLOAT8}
_FOREIGN: tuple[str, ...] = ("complex32", "float4_e2m1fn_x2", "quint8", "qint8", "qint32", "quint4x2", "quint2x4")
_FOREIGN += tuple(f"{kind}{bits}" for kind in ("int", "uint") for bits in range(1, 8))
_FOREIGN += tuple(f"bits{bits}" for bits in ("1x8", "2x4", "4x2", "8", "16"))

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch._tensor._rebuild_from_type_v2": _of_a_type,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta,
    "torch._utils._rebuild_nested_tensor": _nested,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_qtensor": _quantized,
    "torch._utils._rebuild_sparse_csr_tensor": _sparse,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_bytes,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _parameter,
    "torch._utils._rebuild_device_tensor_from_numpy": _parameter,
    "torch._utils._rebuild_wrapper_subclass": _subclass,
    "torch.serialization._get_layout": _layout,
    "torch.Size": _size,
    "torch.device": _device,
    "numpy.dtype": _named("numpy.dtype"),
}
for _core in ("numpy.core", "numpy._core"):
    _FUNCTIONS[f"{_core}.multiarray._reconstruct"] = _array
    _FUNCTIONS[f"{_core}.multiarray.scalar"] = _scalar
    _FUNCTIONS[f"{_core}.numeric._frombuffer"] = _array_of_bytes
_CLASSES = (
    "numpy.ndarray",
    "torch.Tensor",
    "torch._tensor.Tensor",
    "torch.nn.parameter.Buffer",
    "torch.nn.parameter.Parameter",
    *(f"torch.{name}" for name in ("per_tensor_affine", "per_channel_affine", "per_channel_affine_float_qparams")),
    *(f"torch.{name}" for name in ("strided", "sparse_coo", "contiguous_format", "channels_last", "preserve_format")),
)

#: The names that a file of torch may refer to, and what is made of them here.
NAMES: dict[str, Name] = {
    **BUILTINS,
    **{name: Name(name, make) for name, make in _FUNCTIONS.items()},
    **{name: Name(name) for name in _CLASSES},
    **{
        f"{module}.{name}Storage": Dtype(f"torch.{name}Storage", dtype)
        for module in ("torch", "torch.storage", "torch.cuda")
        for name, dtype in _STORAGES.items()
    },
    **{f"torch.{name}": Dtype(f"torch.{name}", name) for name in (*_READABLE, *_FOREIGN)},
    **{f"torch.{name}": Dtype(f"torch.{dtype}", dtype) for name, dtype in _SYNONYMS.items()},
}
