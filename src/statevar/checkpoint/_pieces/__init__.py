"""Checkpoints in pieces: of values that are spread over devices, and of several processes that save together."""
