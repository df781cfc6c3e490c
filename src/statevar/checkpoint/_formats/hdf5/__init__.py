"""HDF5 files, and the two formats of Keras that consist of them. They are read with h5py, without Keras."""

from .reader import open_hdf5

__all__ = ["open_hdf5"]
