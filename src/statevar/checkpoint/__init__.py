"""State that survives: saved to files, loaded from them, kept as checkpoints of a program that runs."""

from ._archive import Checkpoint
from ._matching import LoadReport
from .loading import load
from .manager import CheckpointManager, Restored
from .saving import Progress, save
from .verifying import Verification, verify

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
