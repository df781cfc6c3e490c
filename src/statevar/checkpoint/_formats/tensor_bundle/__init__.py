"""TensorFlow's checkpoints and SavedModels, whose format is a tensor bundle. They are read without TensorFlow."""

from .reader import open_tensor_bundle

__all__ = ["open_tensor_bundle"]
