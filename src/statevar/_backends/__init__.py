"""One adapter a library. The same verbs in the same order: two adapters can be read as a diff."""
