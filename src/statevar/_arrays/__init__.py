"""Array libraries: the contracts of their adapters, dtypes, shapes and selections. Nothing here knows variables."""
