"""The transforms of each library: gradients, compilation, loops. Loaded by `Backend.transforms`."""
