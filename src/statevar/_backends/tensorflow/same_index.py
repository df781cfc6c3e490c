"""Whether all workers of a strategy write at one index. Each of them knows only its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from ...errors import ReplicaError, describe
from .collectives import all_reduce

__all__ = ["check_same_index", "different_indices"]

_BITS = 16  # of a word: the sum of the squares of 32,767 words is an int64
_WORDS = 64 // _BITS
_PROBLEM = "the replicas write at different indices, so that their values cannot be combined"
_HINT = "use v.at[i].add(x), which adds what each replica adds; or write one array with all elements"


def different_indices() -> ReplicaError:
    return ReplicaError.of("setitem", _PROBLEM, hint=_HINT)


def check_same_index(strategy: Any, index: Any, x: Any) -> Any:
    """The operand of a write, which in a program waits until the index is known to be that of all workers.

    Called in the code of each replica. The replicas add up a digest of their indices, and its square: those are as one
    expects of equal digests only if all are equal, so every replica finds out. If they are not, the error in a program
    is an `InvalidArgumentError` of TensorFlow with the same text, when it runs.

    Raises:
        ReplicaError: the workers write at different indices.
    """
    words = _digest(index)
    sums, squares = tf.split(all_reduce([tf.concat([words, words * words], 0)], "sum")[0], 2)
    same = tf.reduce_all(squares * strategy.num_replicas_in_sync == sums * sums)
    if tf.executing_eagerly():
        if not same:
            raise different_indices()
        return x
    with tf.control_dependencies([tf.debugging.Assert(same, [describe("setitem", _PROBLEM, hint=_HINT)])]):
        return tf.identity(x)


def _digest(index: Any) -> Any:
    """Words of an index, equal for indices that select the same elements."""
    known = hashlib.blake2b(digest_size=8)
    symbolic = []
    for part in _parts(index):
        if tf.is_symbolic_tensor(part):
            known.update(b"tensor")
            symbolic += [tf.shape(part, tf.int64), tf.reshape(tf.cast(part, tf.int64), [-1])]
        elif isinstance(part, str):
            known.update(part.encode())
        else:
            host = np.asarray(part)
            known.update(repr((host.shape, host.dtype == bool)).encode())
            known.update(host.astype(np.int64).tobytes())
    found = np.frombuffer(known.digest(), np.int64)
    if not symbolic:
        return tf.constant(found.view(np.uint16).astype(np.int64))
    with tf.device("CPU"):  # TensorFlow has this operation for no other device
        of_all = tf.fingerprint(tf.concat([found, *symbolic], 0)[None])[0]
    high, low = tf.unstack(tf.reshape(tf.cast(of_all, tf.int64), [_WORDS, 2]), axis=1)
    return high * 256 + low


def _parts(index: Any) -> Iterator[Any]:
    """The numbers and arrays of an index, and names for what lies around them."""
    if isinstance(index, tuple | list):
        yield f"{type(index).__name__} of {len(index)}"
        for each in index:
            yield from _parts(each)
    elif isinstance(index, slice):
        yield "slice"
        for each in (index.start, index.stop, index.step):
            yield from _parts(each)
    elif index is None or index is ...:
        yield repr(index)
    else:
        yield index.value if getattr(type(index), "_is_ours", False) else index
