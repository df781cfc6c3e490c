"""A single variable: its public methods, its memory and locks, and the only code that writes it."""
