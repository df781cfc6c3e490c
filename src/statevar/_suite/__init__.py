"""The parts of `statevar.testing`."""
