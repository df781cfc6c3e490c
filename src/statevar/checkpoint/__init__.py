"""State that survives: saved to files, loaded from them, kept as checkpoints of a program that runs."""

from ._archive import Checkpoint
from .loading import LoadReport, Verification, load, verify
from .manager import CheckpointManager, Restored
from .saving import Progress, save

__all__ = [
    "Checkpoint",
    "CheckpointManager",
    "LoadReport",
    "Progress",
    "Restored",
    "Verification",
    "load",
    "save",
    "verify",
]
