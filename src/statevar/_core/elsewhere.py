"""The names that variables of other libraries have and ours do not, each with what to write here.

A name raises AttributeError with that, so ``hasattr`` is False. This is done with one descriptor for each name, since a
``__getattr__`` would make every access to every attribute slower. `docs/migrating.md` has the same names; a test
compares them and runs both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from ..errors import describe

__all__ = ["FUNCTIONS", "Elsewhere", "hint_for_module", "refuses"]

_UPDATE: Final = "v.update(lambda t: t.clone().{}(…)) on torch, or v.update(fn) with any function of the value"

#: What to write for each name. The code is that of the table in docs/migrating.md.
_WRITE: Final = {
    # tf.Variable
    "read_value": "v.value",
    "read_value_no_copy": "v.value",
    "initialized_value": "v.value",
    "eval": "v.numpy()",
    "load": "v.assign(x)",
    "get_shape": "v.shape",
    "set_shape": "shape= when you make the variable, or v.assign(x, validate_shape=False)",
    "ref": "v",
    "experimental_ref": "v",
    "sparse_read": "v[i]",
    "gather_nd": "v[tuple(np.transpose(nd))]",
    "scatter_update": "v.at[i].set(x)",
    "scatter_add": "v.at[i].add(x)",
    "scatter_sub": "v.at[i].subtract(x)",
    "scatter_mul": "v.at[i].multiply(x)",
    "scatter_div": "v.at[i].divide(x)",
    "scatter_min": "v.at[i].min(x)",
    "scatter_max": "v.at[i].max(x)",
    "scatter_nd_update": "v.at[tuple(np.transpose(nd))].set(u)",
    "scatter_nd_add": "v.at[tuple(np.transpose(nd))].add(u)",
    "scatter_nd_sub": "v.at[tuple(np.transpose(nd))].subtract(u)",
    "scatter_nd_min": "v.at[tuple(np.transpose(nd))].min(u)",
    "scatter_nd_max": "v.at[tuple(np.transpose(nd))].max(u)",
    "batch_scatter_update": "v.at[np.arange(len(j))[:, None], j].set(x)",
    "count_up_to": "v.update(fn), where fn raises at the limit",
    "initial_value": "sv.snapshot(v) at the beginning, and sv.restore(snapshot) to return to it",
    "initializer": "v.assign(x) for the first value of a variable made with shape= and dtype=",
    "handle": "v.parameter for TensorFlow's own variable",
    "op": "v.parameter for TensorFlow's own variable",
    "graph": "v.parameter for TensorFlow's own variable",
    "synchronization": "nothing: a variable has one value, which every reader sees",
    "to_proto": "pickle.dumps(v), or sv.save(v, path)",
    "from_proto": "pickle.loads(text), or sv.load(v, path)",
    # keras.Variable
    "regularizer": "the regularizer in the loss; or v.regularizer = fn, which only your code uses",
    "overwrite_with_gradient": "v.assign(gradient); or v.overwrite_with_gradient = True, which only your code uses",
    # nn.Parameter
    "data": "v.value to read, v.assign(x) to write",
    "grad": "loss, gradients = sv.value_and_grad(fn)(…), and gradients[v]; or pass v.parameter to functions of torch",
    "requires_grad": "v.trainable",
    "requires_grad_": "v.trainable = True",
    "backward": "sv.value_and_grad(fn)(…)",
    "detach": "v.value",
    "detach_": "v.trainable = False",
    "clone": "sv.Variable(v)",
    "cpu": "v.to('CPU:0')",
    "cuda": "v.to('GPU:0')",
    "numel": "v.size",
    "dim": "v.ndim",
    "copy_": "v.assign(x)",
    "set_": "v.assign(x, validate_shape=False)",
    "fill_": "v[...] = 7.0",
    "zero_": "v[...] = 0.0",
    "add_": "v += x",
    "sub_": "v -= x",
    "subtract_": "v -= x",
    "mul_": "v *= x",
    "multiply_": "v *= x",
    "div_": "v /= x",
    "divide_": "v /= x",
    "true_divide_": "v /= x",
    "floor_divide_": "v //= x",
    "remainder_": "v %= x",
    "pow_": "v **= 2.0",
    "bitwise_and_": "v &= x",
    "bitwise_or_": "v |= x",
    "bitwise_xor_": "v ^= x",
    **{
        f"{name}_": _UPDATE.format(f"{name}_")
        for name in (
            *(
                "abs",
                "addcdiv",
                "addcmul",
                "bernoulli",
                "ceil",
                "clamp",
                "clamp_max",
                "clamp_min",
                "clip",
                "cos",
                "erf",
            ),
            *("exp", "exponential", "fill_diagonal", "floor", "index_add", "index_copy", "index_fill", "index_put"),
            *("lerp", "log", "logical_and", "logical_not", "logical_or", "masked_fill", "masked_scatter", "nan_to_num"),
            *("neg", "normal", "random", "reciprocal", "relu", "round", "rsqrt", "scatter", "scatter_add", "sigmoid"),
            *("sign", "sin", "sqrt", "square", "tanh", "tril", "triu", "trunc", "uniform"),
        )
    },
    **dict.fromkeys(("absolute", "abs"), "abs(v)"),
    "add": "v + x",
    "sub": "v - x",
    "subtract": "v - x",
    "mul": "v * x",
    "multiply": "v * x",
    "div": "v / x",
    "divide": "v / x",
    "floor_divide": "v // x",
    "remainder": "v % x",
    "pow": "v ** 2.0",
    "neg": "-v",
    "negative": "-v",
    "matmul": "v @ x",
    "mm": "v @ x",
    "mv": "v @ x",
    "eq": "v == x",
    "ne": "v != x",
    "lt": "v < x",
    "le": "v <= x",
    "gt": "v > x",
    "ge": "v >= x",
    "clamp": "v.clip(0.0, 2.5)",
    "amax": "v.max(0)",
    "amin": "v.min(0)",
    "t": "v.T",
    "permute": "v.transpose(1, 0)",
    "view": "v.reshape(4)",
    "double": "v.astype('float64')",
    "float": "v.astype('float32')",
    "half": "v.astype('float16')",
    "bfloat16": "v.astype('bfloat16')",
    "long": "v.astype('int64')",
    "int": "v.astype('int32')",
    "short": "v.astype('int16')",
    "byte": "v.astype('uint8')",
    "bool": "v.astype('bool')",
    "nelement": "v.size",
    "ndimension": "v.ndim",
    "is_floating_point": "v.dtype_name",
    "is_cuda": "v.device",
    "get_device": "v.device",
    "share_memory_": "sv.share(v)",
    "register_hook": "v.subscribe(fn) for writes; v.parameter.register_hook on torch for gradients",
    "retain_grad": "sv.value_and_grad(fn)(…)",
    "grad_fn": "v.value.grad_fn on torch",
    "is_leaf": "v.parameter.is_leaf on torch",
    **{
        name: f"v.value.{name}(…) on torch, or the function of the library"
        for name in (
            *(
                "argsort",
                "ceil",
                "chunk",
                "contiguous",
                "cos",
                "data_ptr",
                "diag",
                "exp",
                "expand",
                "expand_as",
                "flip",
            ),
            *(
                "floor",
                "gather",
                "index_select",
                "isfinite",
                "isinf",
                "isnan",
                "lerp",
                "log",
                "logsumexp",
                "masked_fill",
            ),
            *(
                "masked_select",
                "median",
                "narrow",
                "new_ones",
                "new_tensor",
                "new_zeros",
                "nonzero",
                "norm",
                "pin_memory",
            ),
            *(
                "reciprocal",
                "relu",
                "repeat",
                "roll",
                "rsqrt",
                "scatter",
                "select",
                "sigmoid",
                "sign",
                "sin",
                "softmax",
            ),
            *("sort", "split", "sqrt", "square", "storage", "stride", "take", "tanh", "tile", "topk", "trace"),
            *("tril", "triu", "unbind", "unique", "unsqueeze", "untyped_storage", "view_as", "where"),
        )
    },
    # nnx.Variable
    "get_value": "v.value",
    "raw_value": "v.value",
    "get_raw_value": "v.value",
    "set_value": "v.assign(x)",
    "set_raw_value": "v.assign(x)",
    "copy_from": "v.assign(x)",
    "update_from_state": "v.assign(x)",
    "replace": "sv.Variable(x)",
    "copy": "sv.Variable(v)",
    "get_metadata": "an attribute of your own: v.tag",
    "set_metadata": "an attribute of your own: v.tag = 3",
    "has_metadata": "hasattr(v, 'tag')",
    "del_metadata": "del v.tag",
}

#: Functions and classes of other libraries, with what to write here.
FUNCTIONS: Final = {
    "Parameter": "sv.Variable(x)",
    "Param": "sv.Variable(x)",
    "variable": "sv.Variable(x)",
    "parameter": "v.parameter",
    "tensor": "sv.Variable(x)",
    "constant": "sv.Variable(x, trainable=False)",
    "get_variable": "sv.Variable('zeros', shape=…, name=…)",
    "assign_add": "v.assign_add(x)",
    "assign_sub": "v.assign_sub(x)",
    "update": "v.update(fn), or v.assign(x)",
    "update_add": "v.assign_add(x)",
    "update_sub": "v.assign_sub(x)",
    "moving_average_update": "v.update(lambda mean: mean * momentum + x * (1 - momentum))",
    "scatter_update": "v.at[i].set(x)",
    "scatter_add": "v.at[i].add(x)",
    "scatter_sub": "v.at[i].subtract(x)",
    "scatter_nd_update": "v.at[tuple(np.transpose(nd))].set(u)",
    "scatter_nd_add": "v.at[tuple(np.transpose(nd))].add(u)",
    "function": "sv.jit",
    "gradients": "sv.value_and_grad(fn)",
    "no_grad": "nothing: writes are never recorded; and v.value.detach() on torch",
    "stop_gradient": "the function of the library, on v.value",
    "state_dict": "sv.named_variables(model)",
    "custom_gradient": "the function of the library",
    "global_variables_initializer": "nothing: a variable has its value at once",
    "trainable_variables": "[v for v in sv.variables(model) if v.trainable]",
    "AutocastScope": "sv.autocast",
    "LayoutMap": "sv.shard(model, {'*/kernel': (None, 'model'), '*': ()}, mesh=mesh)",
    "distribute_module": "sv.shard(model, {…}, mesh=mesh)",
    "distribute_tensor": "sv.Variable(x, sharding=axes, mesh=mesh)",
    "eval_shape": "with sv.deferred(): model = Model()",
    "make_array_from_process_local_data": "sv.shard_batch(x, mesh)",
    "process_allgather": "sv.gather(v)",
    "redistribute": "v.reshard(axes)",
    "reshard": "v.reshard(axes)",
    "set_mesh": "with sv.mesh(mesh)",
}

#: Names that must not become attributes of the user's own: whoever sets them wants to change the variable.
_REFUSED: Final = ("data", "grad", "requires_grad")


class _Name:
    """A name that raises AttributeError until the user gives an attribute of that name to the variable."""

    def __init__(self, name: str, write: str) -> None:
        self._name = name
        self._write = write

    @property
    def __doc__(self) -> str:  # type: ignore[override]  # made when it is asked for
        return f"Not here: write {self._write}."

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is not None and self._name in (own := vars(instance)):
            return own[self._name]
        raise self._missing(instance, owner)

    def __set__(self, instance: Any, value: Any) -> None:
        if self._name in _REFUSED:
            raise self._missing(instance, type(instance))
        vars(instance)[self._name] = value

    def __delete__(self, instance: Any) -> None:
        if vars(instance).pop(self._name, self) is self:
            raise self._missing(instance, type(instance))

    def _missing(self, instance: Any, owner: type) -> AttributeError:
        path = getattr(instance, "_path", "")
        return AttributeError(
            describe(owner.__name__, f"has no attribute {self._name!r}", path, f"write {self._write}")
        )


class _Resource(_Name):
    """The name ``handle``, which a variable has if its library takes variables by their handle."""

    def __get__(self, instance: Any, owner: type) -> Any:
        resource = None if instance is None else instance._resource()
        return super().__get__(instance, owner) if resource is None else resource


class Elsewhere:
    """Names of `tf.Variable`, `keras.Variable`, `nn.Parameter` and `nnx.Variable` that say what to write here instead.

    Each raises AttributeError, so a variable does not have it.
    """

    __slots__ = ()

    #: TensorFlow's gradients then ask for ``handle``, where they would otherwise find no gradient, or not say why.
    _should_act_as_resource_variable = True

    locals().update({name: _Name(name, write) for name, write in _WRITE.items()})
    locals()["handle"] = _Resource("handle", _WRITE["handle"])

    def __dir__(self) -> list[str]:
        own = getattr(self, "__dict__", {})
        return [name for name in super().__dir__() if name not in _WRITE or name in own or hasattr(self, name)]


def hint_for_module(name: str, known: Iterable[str]) -> str:
    """The end of the error for a name that ``statevar`` does not have: what to write, or a name that is like it."""
    if name[:1] == "_":  # Python and its tools ask for many of these
        return ""
    from difflib import get_close_matches  # noqa: PLC0415

    if name in FUNCTIONS:
        return f". Hint: write {FUNCTIONS[name]}."
    close = get_close_matches(name, known, n=1, cutoff=0.75)
    return f". Hint: did you mean sv.{close[0]}?" if close else ""


def refuses(name: str, problem: str, write: str) -> Callable[[Any, Any], None]:
    """A setter for a property that other libraries let you set: it raises an error that says what to write.

    Type checkers are not shown it: for them the property is read-only.
    """

    def setter(self: Any, value: Any) -> None:
        raise AttributeError(describe(name, problem, self._path, f"write {write}"))

    return setter
