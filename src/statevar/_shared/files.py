"""A pool at the path of a file."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

__all__ = ["FilePlace"]


class FilePlace:
    """The path of a file, which appears when it is whole."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.path)

    def create_file(self, size: int) -> tuple[int, Callable[..., object]]:
        name = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}.tmp")
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)
        except BaseException:
            name.unlink()
            raise

        def finish(*, sync: bool = False) -> None:
            if sync:
                os.fsync(fd)
            try:
                os.link(name, self.path)
            finally:
                name.unlink()

        return fd, finish

    def open_file(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)

    def grow(self, fd: int, offset: int, nbytes: int) -> None:
        os.posix_fallocate(fd, offset, nbytes)
