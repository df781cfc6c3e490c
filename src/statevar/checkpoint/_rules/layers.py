"""What the layers of an object are: their kinds, by the names of their classes, and the settings that are no arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..._state.walk import segment

__all__ = ["Layers", "differences", "kinds_of"]

_SAME = {
    "Embedding": "embedding",
    "GroupNorm": "group_norm",
    "InstanceNorm": "instance_norm",
    "LayerNorm": "layer_norm",
    "LSTM": "lstm",
    "LSTMCell": "lstm",
    "GRU": "gru",
    "GRUCell": "gru",
}

#: The kind of a layer, by the library that its class is of and the name of the class.
_KINDS: dict[str, dict[str, str]] = {
    "torch": {
        **_SAME,
        "Linear": "linear",
        "MultiheadAttention": "attention",
        "RMSNorm": "rms_norm",
        "_BatchNorm": "batch_norm",
        "_InstanceNorm": "instance_norm",
        "_ConvTransposeNd": "conv_transpose",
        "_ConvNd": "conv",
    },
    "keras": {
        **_SAME,
        "Dense": "linear",
        "MultiHeadAttention": "attention",
        "BaseDepthwiseConv": "depthwise_conv",
        "DepthwiseConv1D": "depthwise_conv",
        "DepthwiseConv2D": "depthwise_conv",
        "BaseConvTranspose": "conv_transpose",
        "Conv1DTranspose": "conv_transpose",
        "Conv2DTranspose": "conv_transpose",
        "Conv3DTranspose": "conv_transpose",
        "BaseConv": "conv",
        "Conv": "conv",
        "BatchNormalization": "batch_norm",
        "BatchNormalizationBase": "batch_norm",
        "LayerNormalization": "layer_norm",
        "GroupNormalization": "group_norm",
        "RMSNormalization": "rms_norm",
    },
    "flax": {
        **_SAME,
        "Linear": "linear",
        "Embed": "embedding",
        "Conv": "conv",
        "ConvTranspose": "conv_transpose",
        "BatchNorm": "batch_norm",
        "RMSNorm": "rms_norm",
        "OptimizedLSTMCell": "lstm",
        "MultiHeadAttention": "attention",
    },
}
_KINDS["tf_keras"] = _KINDS["keras"]


class Layers:
    """The layers of an object by path. An object that does not tell has none."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._found: dict[str, Any] = {}

    def kind(self, path: str) -> str | None:
        """The kind of the layer at a path; None if it is not known."""
        layer = self.at(path)
        kind = next((kind for library, name in _classes(layer) if (kind := _KINDS[library].get(name))), None)
        if kind == "conv_transpose" and getattr(layer, "transpose_kernel", False):
            return "conv_transpose_kernel"
        if kind == "conv" and max(getattr(layer, "groups", 1), getattr(layer, "feature_group_count", 1)) > 1:
            return None  # it may be a depthwise convolution in another library, or not
        return kind

    def at(self, path: str) -> Any:
        if path not in self._found:
            head, _, last = path.rpartition("/")
            parent = self._root if not head else self.at(head)
            self._found[path] = self._root if not path else _child(parent, last)
        return self._found[path]

    def optimizer(self, path: str) -> str | None:
        """The class of the optimizer at a path; None if there is none, or it is of no library that is known."""
        for cls in type(self.at(path)).__mro__:
            library, _, rest = cls.__module__.partition(".")
            if library in _KINDS and "optim" in rest:
                return cls.__name__
        return None

    def settings(self, path: str) -> _Settings | None:
        """The settings of a layer that normalizes."""
        layer = self.at(path)
        library = library_of(layer)
        epsilon = next((getattr(layer, name) for name in ("eps", "epsilon") if hasattr(layer, name)), None)
        if library is None or not isinstance(epsilon, float):
            return None
        momentum = getattr(layer, "momentum", None)
        if not isinstance(momentum, float):
            return _Settings(epsilon, None, "")
        # torch gives the weight of the new value, the others that of the old one.
        return _Settings(epsilon, 1 - momentum if library == "torch" else momentum, f"momentum={momentum}")


def kinds_of(target: Layers, source: Layers, rename: object) -> Callable[[str], str | None]:
    """The kind of layer at a path, as the target says, or else the source, if the layer has the same path there."""

    def kind(path: str) -> str | None:
        found = target.kind(path)
        if found == "conv_transpose" and source.kind(path) == "conv_transpose_kernel":
            return "conv_transpose_kernel"  # of nnx, which has two of them, and says which one it is
        if found is None and rename is None and (found := source.kind(path)) == "conv_transpose":
            return None  # there are two of them
        return found

    return kind


class _Settings(NamedTuple):
    epsilon: float
    #: The weight of the old value in a running average.
    old: float | None
    text: str


def differences(source: Layers, target: Layers, paths: Iterable[str]) -> Iterator[str]:
    """Sentences about layers that normalize with other settings than the layers their weights come from."""
    for path in paths:
        mine, other = source.settings(path), target.settings(path)
        if mine is None or other is None:
            continue
        place = path or "the layer"
        if mine.epsilon != other.epsilon:
            yield f"{place}: epsilon is {mine.epsilon} in the source and {other.epsilon} in the target"
        if mine.old is not None and other.old is not None and abs(mine.old - other.old) > 1e-9:
            yield (
                f"{place}: a running average keeps {mine.old:.4g} of its old value in the source ({mine.text}) and "
                f"{other.old:.4g} in the target ({other.text})"
            )


def library_of(layer: Any) -> str | None:
    return next((library for library, _ in _classes(layer)), None)


def _classes(layer: Any) -> Iterator[tuple[str, str]]:
    """The libraries and names of the classes of a layer that are one of a library's."""
    for cls in type(layer).__mro__:
        library = cls.__module__.partition(".")[0]
        if library in _KINDS:
            yield library, cls.__name__


def _child(parent: Any, name: str) -> Any:
    """What stands at a segment of a path in an object; None if it is not found."""
    if isinstance(parent, Mapping):
        return next(
            (value for key, value in parent.items() if isinstance(key, str | int) and segment(key) == name), None
        )
    if isinstance(parent, Sequence) and not isinstance(parent, str | bytes):
        return parent[int(name)] if name.isdigit() and int(name) < len(parent) else None
    if library_of(parent) in ("keras", "tf_keras"):
        layers = getattr(parent, "_layers", None) or ()  # also of a layer, which has no `layers`
        if (named := next((each for each in layers if getattr(each, "name", None) == name), None)) is not None:
            return named
    try:
        return getattr(parent, name, None)
    except Exception:  # noqa: BLE001  # a property of somebody's class; the kind is not known then
        return None
