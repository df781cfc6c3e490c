"""Properties of the operations in a torch graph: which can fail, which write, and which Inductor knows."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["is_plain", "may_write", "name_of", "written_by"]

# Operations that cannot fail once they run, besides those that torch tags as pointwise or as reductions. A program of
# these writes in place; one that may fail halfway, at an index out of range, does not.
_SURE = frozenset(
    (  # noqa: SIM905  # the list would take a page
        "mm addmm bmm baddbmm mv dot view _unsafe_view reshape expand detach alias t transpose permute select "
        "slice unsqueeze squeeze cat stack full full_like zeros zeros_like ones ones_like empty_like new_zeros "
        "new_ones new_full arange clone copy_ _to_copy convolution convolution_backward native_layer_norm "
        "native_layer_norm_backward _softmax _softmax_backward_data _log_softmax _log_softmax_backward_data rand "
        "rand_like randn randn_like split flip select_backward slice_backward where lift_fresh_copy lift_fresh "
        "empty scalar_tensor native_dropout cumsum tril triu"
    ).split()
)
_DIVISIONS = ("div", "floor_divide", "remainder", "fmod")
_VIEWS = frozenset(
    (  # noqa: SIM905  # the list would take a page
        "view _unsafe_view reshape expand detach alias t transpose permute select slice unsqueeze squeeze clone "
        "_to_copy lift_fresh_copy lift_fresh"
    ).split()
)


def name_of(node: Any) -> str:
    """The name of the operation of a node; empty if it is not one of torch's own."""
    target = getattr(node, "target", None)
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return ""
    return str(target._schema.name).removeprefix("aten::")


def written_by(node: Any) -> Any:
    """The node whose memory a node writes, followed back through views; None if it writes none."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
        return None
    for argument, value in zip(node.target._schema.arguments, node.args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            while name_of(value) in _VIEWS - {"clone", "_to_copy"}:
                value = value.args[0]  # noqa: PLW2901  # from view to view
            return value
    return None


def may_write(module: Any) -> bool:
    """Whether a graph may write over its inputs: nothing in it can fail, and no input gets the old value of another.

    Inductor drops the copy that the latter takes, and two variables that swap their values end with the same value
    (seen in torch 2.13, in ``torch.compile`` too).
    """
    writes = [node for node in module.graph.nodes if node.target is torch.ops.aten.copy_.default]
    targets = {node.args[0] for node in writes}
    for node in writes:
        source = node.args[1]
        while name_of(source) in _VIEWS:
            source = source.args[0]
        if source in targets:
            return False
    return not any(_divides_integers(node) for node in module.graph.nodes) and all(map(_is_sure, module.graph.nodes))


def _is_sure(node: Any) -> bool:
    """Whether a node cannot fail, except for a division of integers."""
    if node.op != "call_function":
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return getattr(node.target, "__name__", "") == "getitem"
    name, tags = name_of(node), node.target.tags
    return bool(name) and (torch.Tag.pointwise in tags or torch.Tag.reduction in tags or name in _SURE)


def _divides_integers(node: Any) -> bool:
    """Whether a node divides integers, which fails on zero."""
    value = node.meta.get("val")
    return name_of(node).startswith(_DIVISIONS) and not (isinstance(value, torch.Tensor) and value.is_floating_point())


def is_plain(node: Any) -> bool:
    """Whether Inductor knows the shapes of a node's results; those that other libraries declare may be wrong."""
    return _is_sure(node) and not name_of(node).startswith("convolution")
