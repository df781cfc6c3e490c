"""The handles of variables of torch on one device: one ``nn.Parameter``, and how its memory is found to be unshared.

Every view, saved tensor, NumPy array and DLPack capsule refers to the storage, and torch counts them: a write that
finds more references than the handle's own leaves the storage to the readers. Torch's lazy clones would do the same and
guard against readers that write, but they hang when two threads drop the last two references at once (seen in torch
2.13, in the lock of the copy-on-write context), and an autograd thread drops them without the GIL.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from operator import attrgetter, methodcaller
from sys import getrefcount
from typing import Any

import torch

from ...errors import TraceError
from .dtypes import ON_HOST
from .spread import Places
from .streams import Use, renewed, streams
from .tracing import open_transforms, transform

__all__ = [
    "UNHELD",
    "UNHELD_FORK",
    "UNHELD_STORAGE",
    "UNLEASED",
    "Fork",
    "ForkOnStreams",
    "Handle",
    "Memento",
    "all_exclusive",
    "use_count",
]

Tensor = torch.Tensor

# Counts the tensors that share a storage. Private in torch 2.13; without it every write allocates.
use_count: Callable[[int], int] = getattr(torch._C, "_storage_Use_Count", lambda _: -1)

_is_inference = torch.is_inference_mode_enabled  # asked at every write; each dot costs 30 ns


class Handle:
    """The storage of one variable: a parameter for life, and an alias of its memory to write through."""

    __slots__ = (
        "address",
        "careful",
        "data",
        "parameter",
        "places",
        "plain",
        "published",
        "seen",
        "shared",
        "storage",
        "tensor",
        "traced",
        "unseen",
        "use",
    )

    def __init__(self, parameter: Tensor) -> None:
        self.parameter = parameter
        self.published = None
        self.seen = parameter._version
        self.unseen = 0  # the number of writes by other code, when `follow` last looked
        self.shared = False  # user code has the parameter and may write to it or replace its storage
        self.places: Places | None = None  # the modules that have the parameter, once user code has it
        self.traced = False  # a compiled graph writes in place, even while snapshots exist
        self.use: Use | None = None  # the streams that use the memory; None on the host
        self.address = 0
        self.bind(parameter.data)
        self.careful = self.use is not None  # whether it is shared, traced or used on streams: not the usual case

    def bind(self, tensor: Tensor) -> None:
        """Remembers the alias to write through, its storage, and where that lies."""
        self.tensor = tensor
        self.plain = tensor.is_cpu and tensor.dtype not in ON_HOST  # the usual case, in one test
        self.storage = tensor.untyped_storage()
        if (address := self.storage._cdata) != self.address:
            self.address = address
            self.use = None if tensor.is_cpu and not streams.on_host else renewed(self.use, tensor)
        self.data = tensor.data_ptr()

    def follow(self) -> None:
        """Takes note of what other code has done to the parameter: its writes, and the memory that it has put there."""
        parameter = self.parameter
        if self.shared:
            if self.places is not None:
                self.places.check()
            if parameter.data_ptr() != self.data:
                self.seen -= 1  # one more write, which torch's version does not count
            # ``.data = …`` and ``module.to()`` replace the storage. ``detach`` shares the version counter,
            # so that autograd refuses a graph that used the parameter before this write.
            self.bind(parameter.detach())
        self.unseen = parameter._version - self.seen

    def exclusive(self) -> bool:
        """Whether no snapshot, view, graph, NumPy array, capsule, storage or process shares the memory.

        The caller writes next: in place if it is true, and else into a copy. So the current stream may do that.
        """
        if self.careful:
            self.follow()
        exclusive = (
            use_count(self.address) == UNHELD
            # Torch has one Python object for a storage, which counts as one use, whoever has it.
            and getrefcount(self.storage) == UNHELD_STORAGE
            and getrefcount(self.tensor) == UNLEASED
            # ``share_memory_`` and a queue of `torch.multiprocessing` move the memory to where other processes see it.
            and self.tensor.data_ptr() == self.data
            and (self.plain or not _is_lent(self.address))
        )
        if self.careful and self.use is not None:  # after the count: nobody can read it any more without asking
            (self.use.write if exclusive else self.use.read)(self.tensor)
        return exclusive

    def copied(self) -> Tensor:
        """A copy of the value, on the current stream."""
        if self.use is not None:
            self.use.read(self.tensor)
        return self.tensor.clone()

    def replace(self, fresh: Tensor) -> None:
        """Gives the parameter new memory, and leaves the old to its readers; it stays the same object."""
        if _is_inference() or fresh.is_inference():
            with torch.inference_mode(False):
                self.replace(fresh.clone())
            return
        if open_transforms() and (name := transform()):
            raise TraceError.of("write", f"the code runs in {name}, in which a variable cannot be written")
        self.data = fresh.data_ptr()
        self.parameter.data = self.tensor = fresh
        self.storage = fresh.untyped_storage()
        self.address = self.storage._cdata
        if self.careful:
            if self.use is not None:
                self.use = renewed(self.use, fresh)
            if self.shared:
                torch.autograd.graph.increment_version(self.parameter)


class Fork:
    """A value that is written apart from its variable: a bare tensor, since a parameter takes 5 us to make."""

    __slots__ = ("data", "fresh", "parameter", "plain", "seen", "tensor")

    published = None
    shared = traced = careful = False
    unseen = 0
    use: Use | None = None

    def follow(self) -> None:
        """Does nothing: no other code has the tensor."""

    def __init__(self, tensor: Tensor, plain: bool) -> None:
        self.tensor = self.parameter = tensor
        self.plain = plain
        self.fresh = False  # whether the fork has made the tensor

    def exclusive(self) -> bool:
        """Whether the fork has made the tensor, and nothing else shares its memory, as of a handle."""
        if not self.fresh or self.tensor.data_ptr() != self.data:
            return False
        storage = self.tensor.untyped_storage()
        address = storage._cdata
        return (
            use_count(address) == UNHELD_FORK
            and getrefcount(storage) == UNHELD_STORAGE
            and (self.plain or not _is_lent(address))
        )

    def replace(self, fresh: Tensor) -> None:
        """Takes over a tensor whose memory nothing else refers to."""
        if _is_inference() or fresh.is_inference():  # such a tensor has no version, and cannot be trained
            with torch.inference_mode(False):
                fresh = fresh.clone()
        self.tensor = self.parameter = fresh
        self.fresh = True
        self.data = fresh.data_ptr()


def _is_lent(address: int) -> bool:
    """Whether a queue of `torch.multiprocessing` has sent the storage of a device to another process."""
    sent: Any = getattr(sys.modules.get("torch.multiprocessing.reductions"), "shared_cache", None)
    return bool(sent) and any(each.cdata == address for each in list(sent.values()))


class ForkOnStreams(Fork):
    """A fork on an accelerator. Until it makes its own tensor, it has that of the variable, and its use."""

    __slots__ = ("use",)

    careful = True

    def __init__(self, tensor: Tensor, use: Use | None) -> None:
        super().__init__(tensor, False)
        self.use = use

    def exclusive(self) -> bool:
        exclusive = super().exclusive()
        if self.use is not None:
            (self.use.write if exclusive else self.use.read)(self.tensor)
        return exclusive

    def replace(self, fresh: Tensor) -> None:
        super().replace(fresh)
        self.use = renewed(self.use, self.tensor)


class Memento:
    """The value that `adopt` restores."""

    __slots__ = ("tensor", "use")

    def __init__(self, tensor: Tensor, use: Use | None) -> None:
        self.tensor = tensor
        self.use = use


def _calibrate() -> tuple[int, int, int]:
    """Returns three counts of an unshared handle: the uses of its storage, and the references to storage and tensor.

    (-2, -2, -2), which never matches, where counts prove nothing.
    """

    def counts(share: Callable[[Tensor], Any]) -> tuple[int, int, int]:
        handle = Handle(torch.nn.Parameter(torch.zeros(4, device="cpu")))
        shared = share(handle.parameter)
        found = use_count(handle.address), getrefcount(handle.storage), getrefcount(handle.tensor)
        del shared
        return found

    unheld = counts(lambda _: None)
    held = [counts(share) for share in (Tensor.detach, lambda each: each.detach().numpy(), Tensor.untyped_storage)]
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return unheld if gil and unheld not in held else (-2, -2, -2)


UNHELD, UNHELD_STORAGE, UNLEASED = _calibrate()
UNHELD_FORK = UNHELD - 1 if UNHELD > 0 else -2  # a handle keeps an alias too


_careful_of, _plain_of, _address_of, _storage_of, _tensor_of, _data_of = map(
    attrgetter, ("careful", "plain", "address", "storage", "tensor", "data")
)
_data_ptr = methodcaller("data_ptr")


def all_exclusive(handles: list[Handle]) -> bool:
    """Whether all handles are on the host, of the usual case and `exclusive`, asked without a Python call for each."""
    return (
        not any(map(_careful_of, handles))
        and all(map(_plain_of, handles))
        and set(map(use_count, map(_address_of, handles))) == {UNHELD}
        and set(map(getrefcount, map(_storage_of, handles))) == {UNHELD_STORAGE}
        and set(map(getrefcount, map(_tensor_of, handles))) == {UNLEASED}
        and list(map(_data_ptr, map(_tensor_of, handles))) == list(map(_data_of, handles))
    )
