"""Random numbers of `statevar.Generator`: the same bits on every library, from Threefry-2x32 by position."""
