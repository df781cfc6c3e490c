"""Code that reads and writes variables, as functions of values: gradients, compilation, loops."""
