"""The array API namespace, the same for every library."""
