"""Rules that turn the weights of one library into those of another: the notation, the tables, and the matching."""
