"""The extension ``fft`` of a namespace."""

from __future__ import annotations

from typing import Any

from .creation import Creation
from .operands import FLOAT, Operands

__all__ = ["FFT"]


class FFT(Operands):
    """Discrete Fourier transforms, ``xp.fft``. Integers and floats of 16 bits count as float32."""

    def __init__(self, creation: Creation) -> None:
        super().__init__(creation._backend, creation._device)
        self._creation = creation

    def fft(self, x: Any, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Any:
        """The transform along an axis."""
        return self._line("fft", x, "float", n, axis, norm)

    def ifft(self, x: Any, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Any:
        """The inverse of `fft`."""
        return self._line("ifft", x, "float", n, axis, norm)

    def fftn(self, x: Any, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Any:
        """The transform along several axes."""
        return self._several("fftn", x, "float", s, axes, norm)

    def ifftn(self, x: Any, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Any:
        """The inverse of `fftn`."""
        return self._several("ifftn", x, "float", s, axes, norm)

    def rfft(self, x: Any, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Any:
        """The transform of real numbers along an axis."""
        return self._line("rfft", x, "real float", n, axis, norm)

    def irfft(self, x: Any, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Any:
        """The inverse of `rfft`."""
        return self._line("irfft", x, "float", n, axis, norm)

    def rfftn(self, x: Any, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Any:
        """The transform of real numbers along several axes."""
        return self._several("rfftn", x, "real float", s, axes, norm)

    def irfftn(self, x: Any, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Any:
        """The inverse of `rfftn`."""
        return self._several("irfftn", x, "float", s, axes, norm)

    def hfft(self, x: Any, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Any:
        """The transform of a signal with Hermitian symmetry, which is real."""
        return self._line("hfft", x, "float", n, axis, norm)

    def ihfft(self, x: Any, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Any:
        """The inverse of `hfft`."""
        return self._line("ihfft", x, "real float", n, axis, norm)

    def fftfreq(self, n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Any:
        """The frequencies of the results of `fft`."""
        return self._frequencies("fftfreq", n, d, dtype, device)

    def rfftfreq(self, n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Any:
        """The frequencies of the results of `rfft`."""
        return self._frequencies("rfftfreq", n, d, dtype, device)

    def fftshift(self, x: Any, /, *, axes: Any = None) -> Any:
        """The results with the frequency 0 in the middle."""
        return self._own("fft.fftshift")(self._array(x, "fftshift"), axes=axes)

    def ifftshift(self, x: Any, /, *, axes: Any = None) -> Any:
        """The inverse of `fftshift`."""
        return self._own("fft.ifftshift")(self._array(x, "ifftshift"), axes=axes)

    def _line(self, operation: str, x: Any, kind: str, n: int | None, axis: int, norm: str) -> Any:
        return self._own(f"fft.{operation}")(self._wide(operation, x, kind), n=n, axis=axis, norm=norm)

    def _several(self, operation: str, x: Any, kind: str, s: Any, axes: Any, norm: str) -> Any:
        if s is not None and axes is None:  # NumPy wants both
            axes = tuple(range(-len(s), 0))
        return self._own(f"fft.{operation}")(self._wide(operation, x, kind), s=s, axes=axes, norm=norm)

    def _frequencies(self, operation: str, n: int, d: float, dtype: Any, device: Any) -> Any:
        numbers = self._creation.arange(n, dtype=dtype or FLOAT, device=device)
        middle = (n - 1) // 2 + 1
        if operation == "rfftfreq":
            return numbers[: n // 2 + 1] / (n * d)
        return self._creation.concat([numbers[:middle], numbers[middle:] - n]) / (n * d)
