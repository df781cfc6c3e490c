"""Values over a mesh in a compiled program: it is traced on the part of this process, and communicates where it must.

``make_fx`` follows the operations on tensors without tensors in them. So the inputs and results of a program are parts,
and the traced code sees each input as the value over the mesh of which it is the part.
"""

from __future__ import annotations

from typing import Any

import torch

from .spread import is_over_a_mesh

__all__ = ["kind_of", "part_of", "spec_of", "whole_of"]

Tensor = torch.Tensor


def spec_of(value: Any) -> Any:
    """What torch keeps with a value over a mesh; None for any other tensor."""
    return value._spec if type(value) is not Tensor and is_over_a_mesh(value) else None


def part_of(value: Any) -> Tensor:
    """The part that this process has, without a gradient; any other tensor as it is."""
    if spec_of(value) is None:
        return value  # type: ignore[no-any-return]  # a plain tensor, as its spec says
    local = value._local_tensor.detach()
    found: Tensor = local.trigger_wait() if hasattr(local, "trigger_wait") else local  # of a collective under way
    return found


def whole_of(part: Tensor, spec: Any) -> Tensor:
    """The value of which this is the part."""
    if spec is None:
        return part
    from .layout import over_mesh  # noqa: PLC0415  # only values over a mesh need it

    return over_mesh(part, spec)


def kind_of(value: Tensor) -> Any:
    """What of a value a program depends on, to be compared."""
    if (spec := spec_of(value)) is not None:
        return value.dtype, value.device, spec.mesh, spec.placements
    return value.dtype, value.device
