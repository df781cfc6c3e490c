"""TensorFlow's checkpoints and SavedModels, which are read without TensorFlow."""

from .reader import open_tensorflow

__all__ = ["open_tensorflow"]
