"""`Located`: where the value of a variable is, and the moves to another device or sharding."""

from __future__ import annotations

from typing import Any, Self

from .cell import Cell
from .moving import move_to_device
from .sharded import reshard

__all__ = ["Located"]


class Located(Cell):
    """A cell that tells its device or sharding, and can change it."""

    __slots__ = ()

    @property
    def device(self) -> Any:
        """The device of the value, as the library represents it; of a value that is spread its `sharding`."""
        if self._handle is not None:
            if self._backend.drifts:
                self._observe("device", writing=False)
            return self._backend.device_of_handle(self._handle)
        return self._backend.device(None) if self._device is None else self._device

    def to(self, device: Any) -> Self:
        """Moves the variable to another device of its library, and returns it: the same variable, with the same value.

        It is no write, so the version stays. Readers go on meanwhile; values that were read stay where they are. On
        torch ``v.parameter`` stays the same object, and moves as ``module.to`` moves it: move a variable before you
        give an optimizer its parameter, since the optimizer has state too. A ``tf.Variable`` cannot move: the variable
        gets a new one, and it is an error if you, or a graph, have the old one.

        Args:
            device: as for ``device=`` of a new variable; None is the default device of the library.

        Raises:
            ConflictError: it is called in a transaction, which could not undo it.
            DeviceError: there is no such device; or the variable cannot move, since it is a view, spread over devices,
                or its ``tf.Variable`` is in other hands.
            DTypeError: the device cannot store the dtype.
            TraceError: it is called in code that is traced.

        Source: ``torch.nn.Module.to``.

        >>> import statevar as sv
        >>> v = sv.Variable([1.0, 2.0], name="v")
        >>> v.to("CPU:0")
        <Variable 'v' shape=(2,) dtype=float32 device=CPU:0 backend=numpy value=[1. 2.]>
        """
        move_to_device(self, device)
        return self

    @property
    def sharding(self) -> Any:
        """How the value is spread over devices or processes, as the library represents it; None if it is not.

        JAX has its ``Sharding``; torch has a mesh and placements; TensorFlow a strategy of ``tf.distribute``.

        >>> import statevar as sv
        >>> print(sv.Variable(0.0).sharding)
        None
        """
        return self._backend.sharding_on(self.device)  # which follows what code outside has done

    def reshard(self, sharding: Any, mesh: Any = None) -> Self:
        """Spreads the value in another way over the devices of a mesh, or brings it back to one device.

        Nothing else changes the sharding of a variable. The value stays the same, so it is no write: the version stays,
        and snapshots too. If other processes have parts of the value it communicates, and every process calls it.

        Args:
            sharding: as for `Variable`: for each axis the name of a mesh axis, several names, or None; or a sharding of
                the library. None brings the whole value to the library's default device, in every process.
            mesh: the mesh of the library; by default that of the `mesh` scope, or of the present sharding.

        Returns:
            The variable.

        Raises:
            ConflictError: it is called in a transaction.
            ShardingError: the value cannot be spread as asked; or code outside has `parameter`, the library's own
                object of the variable, which would not move along.
            TraceError: it is called while code is traced.

        >>> import statevar as sv
        >>> v = sv.Variable([1.0, 2.0])
        >>> v.reshard(None) is v
        True
        """
        reshard(self, sharding, mesh)
        return self
