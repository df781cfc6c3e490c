"""Which device a variable gets: the one place that decides it, and that tells of it in the log.

1. A device that is named is taken as it is, or it is an error. Asked to be soft, the nearest one that exists and can
   store the dtype is taken instead.
2. ``"auto"`` is the fastest device that can store the dtype: TensorFlow's rule.
3. Without a device the library decides, as it does for its own arrays: its adapter gets None.

Everything is known before the variable is made. The log is Python's, under the name ``statevar.placement``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from .._arrays.backend import Backend
from .._arrays.placement import parse_device
from .._arrays.registry import owner_of
from .._public import public
from ..errors import DeviceError, DTypeError, describe

__all__ = [
    "Soft",
    "chosen",
    "met",
    "say_copied",
    "say_made",
    "say_moved",
    "set_log_device_placement",
    "set_soft_device_placement",
]

#: Whether every named device may be replaced by another one.
soft_everywhere = False
#: Whether the places of variables are logged.
logged = False
#: Whether variables of one library have been on two devices, so that an operator has to ask where its operands are.
several = False

_lowered = False  # whether the level of the logger is ours
_first_met: dict[str, Any] = {}  # the first device of each library on which there was a variable
#: The devices that were taken in place of others, by library, name and dtype.
_replaced: dict[tuple[str, str, str], Any] = {}
_told: set[tuple[str, str, str]] = set()


class Soft:
    """A device that was asked for, in place of which the nearest one may be taken."""

    __slots__ = ("device",)

    def __init__(self, device: Any) -> None:
        self.device = device


@public()
def set_soft_device_placement(enabled: bool) -> None:
    """Has a device that does not exist, or cannot store the dtype, replaced by the nearest one; else it is an error.

    The nearest one is the next lower number of the same kind, and then the CPU: ``"GPU:3"`` becomes ``"GPU:1"`` on a
    machine with two GPUs, and ``"CPU:0"`` on one without. Each replacement is logged once, as a warning of the logger
    ``"statevar.placement"``. It concerns the whole process: every ``device=``, `device` scope and `Variable.to`.

    Source: ``tf.config.set_soft_device_placement``, which is on by default in TensorFlow.

    >>> import statevar as sv
    >>> sv.set_soft_device_placement(True)
    >>> sv.Variable(0.0, device="GPU:7").device
    'cpu'
    >>> sv.set_soft_device_placement(False)
    """
    global soft_everywhere  # noqa: PLW0603  # a setting of the process, as its name says
    soft_everywhere = _enabled("set_soft_device_placement", enabled)


@public()
def set_log_device_placement(enabled: bool) -> None:
    """Has Python's logger ``"statevar.placement"`` tell where each variable lies, when it is made and when it moves.

    It also tells of each operand that an operator between variables on two devices copies. The messages have the level
    INFO. They go to the handlers of `logging`; to the standard error stream if there are none.

    Source: ``tf.debugging.set_log_device_placement``.

    >>> import statevar as sv
    >>> sv.set_log_device_placement(False)
    """
    global logged, _lowered  # noqa: PLW0603  # as above
    enabled = _enabled("set_log_device_placement", enabled)
    if enabled != logged:
        import logging  # noqa: PLC0415  # takes 8 ms, and is needed only here

        logger = logging.getLogger("statevar.placement")
        if enabled and logger.level == logging.NOTSET:  # else the level of the root logger would hide the messages
            logger.setLevel(logging.INFO)
            _lowered = True
        elif _lowered and not enabled:
            logger.setLevel(logging.NOTSET)
            _lowered = False
        logged = enabled


def _enabled(name: str, enabled: bool) -> bool:
    if not isinstance(enabled, bool):
        raise TypeError(describe(name, f"expected True or False, got {enabled!r}"))
    return enabled


# -- the choice ------------------------------------------------------------------------------------------------------


def chosen(backend: Backend, asked: Any, dtype: str | None, operation: str, path: str = "") -> Any:
    """The device of the library for a value, of what was asked for; None if the library is to decide.

    Args:
        asked: a name, a device of the library, ``"auto"``, a `Soft`, or None.
        dtype: the dtype that the device must be able to store; None if that is no matter.

    Raises:
        DeviceError: there is no such device.
        DTypeError: the device cannot store the dtype.
    """
    soft = soft_everywhere
    if type(asked) is Soft:
        asked, soft = asked.device, True
    if asked is None:
        return None
    if backend.is_sharded:
        return backend.device(asked)
    if isinstance(asked, str):
        if asked.lower() == "auto":
            return _fastest(backend, dtype, operation, path)
    elif getattr(type(asked), "_is_ours", False) or owner_of(asked) is not None:
        problem = f"expected a device or its name, such as 'CPU:0', got {type(asked).__name__}"
        raise DeviceError.of(operation, problem, path, "pass the device of it: w.device")
    try:
        device = backend.device(asked)
        if dtype is None or backend.holds(device, dtype):
            return device
        name = backend.device_name(device)
        problem = f"the device {name} cannot store {dtype}"
        hint = "pass another dtype or device; or call sv.set_soft_device_placement(True), which takes another device"
        refusal: Exception = DTypeError.of(operation, problem, path, hint)
    except DeviceError as error:
        problem, refusal = f"there is no device {asked!r}", error
    if not soft:
        raise refusal
    return _nearest(backend, asked, dtype, problem, refusal)


def _fastest(backend: Backend, dtype: str | None, operation: str, path: str) -> Any:
    for device in backend.devices():
        if dtype is None or backend.holds(device, dtype):
            return device
    raise DTypeError.of(operation, f"no device of {backend.name} can store {dtype}", path, "pass another dtype")


def _nearest(backend: Backend, asked: Any, dtype: str | None, problem: str, refusal: Exception) -> Any:
    """The device that is taken in place of another one, which was found once for each dtype."""
    name = asked if isinstance(asked, str) else backend.device_name(asked)
    key = backend.name, name, dtype or ""
    device = _replaced.get(key)
    if device is None:
        device = next(
            (each for each in _candidates(backend, name) if dtype is None or backend.holds(each, dtype)), None
        )
        if device is None:
            raise refusal
        _replaced[key] = device
        got = backend.device_name(device)
        if (once := (backend.name, name, got)) not in _told:
            _told.add(once)
            _say("WARNING", f"{problem} ({backend.name}): {got} is used instead")
    return device


def _candidates(backend: Backend, name: str) -> Iterator[Any]:
    """The devices that exist, from the nearest to one with this name, which is valid, to the farthest."""
    kind, number = parse_device(name)
    for each in range(min(number, len(backend.devices())) - 1, -1, -1):
        try:
            yield backend.device(f"{kind}:{each}")
        except DeviceError:
            continue
    if kind != "cpu":
        yield backend.device("CPU:0")


def met(backend: Backend, device: Any) -> None:
    """Takes note of a device on which there is a variable."""
    global several  # noqa: PLW0603  # every operator asks it
    if _first_met.setdefault(backend.name, device) != device:
        several = True


# -- the log ---------------------------------------------------------------------------------------------------------


def say_made(variable: Any) -> None:
    """Tells where a variable with a value lies."""
    backend = variable._backend
    place = backend.device_name(backend.device_of_handle(variable._handle))
    facts = f"{variable._dtype_name} of shape {variable._shape}"
    _say("INFO", f"variable {variable._path!r}: {facts} on {place} ({backend.name})")


def say_moved(variable: Any, old: str, new: str) -> None:
    """Tells that a variable has moved from one place to another."""
    _say("INFO", f"variable {variable._path!r}: moved from {old} to {new} ({variable._backend.name})")


def say_copied(operation: str, backend: Backend, array: Any, device: Any) -> None:
    """Tells that an operand is copied to another device."""
    places = f"from {backend.device_name(backend.device_of(array))} to {backend.device_name(device)}"
    _say("INFO", f"{operation}: an operand of shape {backend.shape(array)} is copied {places} ({backend.name})")


#: The levels of `logging`, which is imported only if there is something to say.
_LEVELS: Final = {"INFO": 20, "WARNING": 30}


def _say(level: str, text: str) -> None:
    import logging  # noqa: PLC0415  # as above

    logger = logging.getLogger("statevar.placement")
    if logger.hasHandlers():
        logger.log(_LEVELS[level], "%s", text)
    elif logger.isEnabledFor(_LEVELS[level]):  # Python itself would show warnings only
        import sys  # noqa: PLC0415

        sys.stderr.write(f"{text}\n")
