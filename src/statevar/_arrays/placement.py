"""Device names that mean the same on every backend: ``"CPU:0"``, ``"GPU"``, ``"GPU:1"``."""

from __future__ import annotations

from .._public import public
from ..errors import DeviceError

__all__ = ["no_such_device", "parse_device"]


@public("statevar.backends")
def parse_device(name: str) -> tuple[str, int]:
    """Splits a device name into its platform, in lower case, and its index.

    Raises:
        DeviceError: the platform is not a word, or the index is not a number.

    >>> parse_device("GPU:1"), parse_device("cpu")
    (('gpu', 1), ('cpu', 0))
    """
    platform, _, index = name.strip("/").removeprefix("device:").partition(":")
    if not platform.isalpha() or not (index.isdigit() or not index):
        raise DeviceError.of("device", f"expected a name such as 'CPU:0' or 'GPU:1', got {name!r}")
    return platform.lower(), int(index or 0)


@public("statevar.backends")
def no_such_device(name: object, known: str) -> DeviceError:
    """The error for a device that a backend does not have."""
    return DeviceError.of("device", f"there is no device {name!r}", hint=f"available devices are {known}")
