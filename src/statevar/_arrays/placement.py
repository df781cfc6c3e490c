"""Names of devices that mean the same on every backend, and values that lie on several devices."""

from __future__ import annotations

from typing import Any

from .._public import public
from ..errors import DeviceError

__all__ = ["Spread", "no_such_device", "parse_device"]


@public("statevar.backends")
class Spread:
    """How a value is spread over several devices or processes, for the error that refuses it.

    Args:
        what: the value, and over what it is spread: ``"a DTensor over a mesh of 4 devices"``.
        hint: how to get a value that is in one place.
    """

    # No named tuple, which would take 0.4 ms of every import.
    def __init__(self, what: str, hint: str) -> None:
        self.what = what
        self.hint = hint

    def refused(self, operation: str, path: str) -> DeviceError:
        """The error for an operation that would store the value."""
        problem = f"got {self.what}, but the value of a variable lies on one device"
        return DeviceError.of(operation, problem, path, self.hint)


@public("statevar.backends")
def parse_device(name: Any) -> tuple[str, int]:
    """Splits a device name into its platform, in lower case, and its index.

    Raises:
        DeviceError: it is no text, the platform is not a word, or the index is not a number.

    >>> parse_device("GPU:1"), parse_device("cpu")
    (('gpu', 1), ('cpu', 0))
    """
    if not isinstance(name, str):
        raise DeviceError.of("device", f"expected a name such as 'CPU:0' or 'GPU:1', got {name!r}")
    short = name.rpartition("/device:")[2]  # of TensorFlow's "/job:localhost/replica:0/task:0/device:CPU:0"
    platform, _, index = short.strip("/").removeprefix("device:").partition(":")
    if not platform.isalpha() or not (index.isdigit() or not index):
        raise DeviceError.of("device", f"expected a name such as 'CPU:0' or 'GPU:1', got {name!r}")
    return platform.lower(), int(index or 0)


@public("statevar.backends")
def no_such_device(name: object, known: str) -> DeviceError:
    """The error for a device that a backend does not have."""
    return DeviceError.of("device", f"there is no device {name!r}", hint=f"available devices are {known}")
