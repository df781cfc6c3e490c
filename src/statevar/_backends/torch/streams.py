"""The order of reads and writes on an accelerator, whose work is queued on streams.

A call returns before its kernel has run, and only the kernels of one stream run in the order of the calls. So a reader
may have dropped a snapshot whose kernels are still queued on one stream, while a write on another changes the memory. A
`Use` remembers the streams on which one piece of memory was last written and read since, and the stream that reads or
writes next waits for them. The device does the waiting, not Python. Memory that is given up is recorded on the streams
that used it, so that torch does not reuse it too early.

Only a second stream costs anything; on the host there are no streams, and a handle has no `Use`.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["Streams", "Use", "catch_up", "renewed", "use_of"]

Tensor = torch.Tensor

_raw_cuda: Any = getattr(torch._C, "_cuda_getCurrentRawStream", None)


class Streams:
    """What torch knows of streams. Tests replace its methods by others that record the calls, on the host."""

    #: Whether the host has streams as well, which only a test pretends.
    on_host = False

    def has(self, device: Any) -> bool:
        """Whether work on a device is queued on streams."""
        return device.type == "cuda" or (device.type not in ("cpu", "meta", "mps") and _accelerator() == device.type)

    def key(self, device: Any) -> Any:
        """Identifies the current stream of a device; asked at every read and write."""
        if device.type == "cuda" and _raw_cuda is not None:
            return _raw_cuda(device.index)
        return self.current(device).stream_id

    def current(self, device: Any) -> Any:
        """The current stream of a device."""
        return torch.accelerator.current_stream(device)

    def is_capturing(self, device: Any) -> bool:
        """Whether the calls become part of a CUDA graph, which cannot wait for a stream outside of it."""
        return device.type == "cuda" and torch.cuda.is_current_stream_capturing()

    def wait(self, stream: Any, other: Any) -> None:
        """Has a stream wait for what is queued on another one now."""
        stream.wait_stream(other)

    def record(self, tensor: Tensor, stream: Any) -> None:
        """Keeps the memory of a tensor from being reused before what is queued on a stream is done with it."""
        tensor.record_stream(stream)


streams = Streams()

#: The streams on which variables were used, by device and key. Torch has 64 a device, so they are few.
_known: dict[Any, dict[Any, Any]] = {}


class Use:
    """The streams that use one piece of memory. It is made by whoever writes the memory first.

    Attributes:
        lent: the streams on which user code took the parameter, whose later reads and writes there nobody reports.
    """

    __slots__ = ("_allocated", "_device", "_key", "_readers", "_recorded", "_stream", "lent")

    def __init__(self, device: Any, lent: dict[Any, Any]) -> None:
        self._device = device
        self._key = self._allocated = streams.key(device)
        self._stream = streams.current(device)  # the one that wrote last
        self._readers: dict[Any, Any] = {}
        self._recorded: set[Any] = set()
        self.lent = lent
        _known.setdefault(device, {})[self._key] = self._stream

    def read(self, tensor: Tensor) -> None:
        """Orders a read on the current stream after the last write. Later writes on other streams wait for it."""
        key = streams.key(self._device)
        if key == self._key and self._mine(key):  # whoever waits for the last writer waits for this read too
            return
        if streams.is_capturing(self._device):
            return
        stream = self._follow(key, tensor)
        if key != self._key:
            self._readers[key] = stream

    def write(self, tensor: Tensor) -> None:
        """Orders a write in place on the current stream after the last write and all reads since.

        Called when nobody has a snapshot any more: whoever had one has queued everything that he does with it.
        """
        key = streams.key(self._device)
        if key == self._key and not self._readers and self._mine(key):
            return
        if streams.is_capturing(self._device):
            return
        stream = self._follow(key, tensor)
        for other, reader in self._readers.items():
            if other != key:
                streams.wait(stream, reader)
        self._readers.clear()
        self._key, self._stream = key, stream

    def lend(self, tensor: Tensor) -> None:
        """Takes it that user code reads and writes the memory on the current stream from now on."""
        self.write(tensor)
        key = streams.key(self._device)
        self.lent[key] = streams.current(self._device)

    def done(self) -> None:
        """Has the streams of `lent` wait for a read or write that was just queued."""
        if self.lent and not streams.is_capturing(self._device):
            key = streams.key(self._device)
            for other, stream in self.lent.items():
                if other != key:
                    streams.wait(stream, streams.current(self._device))

    def _mine(self, key: Any) -> bool:
        """Whether no user code has the parameter on another stream."""
        return not (lent := self.lent) or (len(lent) == 1 and key in lent)

    def _follow(self, key: Any, tensor: Tensor) -> Any:
        """The current stream, which waits for the last write, and for user code that has the parameter."""
        stream = streams.current(self._device)
        _known.setdefault(self._device, {})[key] = stream
        if key != self._key:
            streams.wait(stream, self._stream)
        for other, lent in self.lent.items():
            if other not in (key, self._key):
                streams.wait(stream, lent)
        if key != self._allocated and key not in self._recorded:
            self._recorded.add(key)
            streams.record(tensor, stream)
        return stream


def use_of(tensor: Tensor, lent: dict[Any, Any] | None = None) -> Use | None:
    """The use of a tensor that the current stream has just made; None where there are no streams."""
    device = tensor.device
    return Use(device, {} if lent is None else lent) if streams.has(device) else None


def renewed(use: Use | None, tensor: Tensor) -> Use | None:
    """The use of new memory, which takes the place of other memory of the same variable."""
    return use_of(tensor, None if use is None else use.lent)


def catch_up(tensor: Tensor) -> None:
    """Has the current stream wait for all streams on which variables were used.

    For memory whose use is not known: that of a snapshot which another stream has taken, or that user code put there.
    """
    device = tensor.device
    if (known := _known.get(device)) is None or streams.is_capturing(device):
        return
    key = streams.key(device)
    others = [stream for other, stream in list(known.items()) if other != key]
    if others:
        stream = streams.current(device)
        for other in others:
            streams.wait(stream, other)
        streams.record(tensor, stream)


def _accelerator() -> str | None:
    found = torch.accelerator.current_accelerator() if hasattr(torch, "accelerator") else None
    return None if found is None else found.type
