"""One variable: its public surface, its memory and locks, and the only code that writes it."""
