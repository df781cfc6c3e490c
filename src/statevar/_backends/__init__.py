"""One folder a library, with the same files in each: two adapters can be read as a diff."""
