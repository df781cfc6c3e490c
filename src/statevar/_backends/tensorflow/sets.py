"""The set functions of the array API, with TensorFlow's functions. Operands may be variables."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from .receive import received, tensor_of

__all__ = ["unique_all", "unique_counts", "unique_inverse", "unique_values"]


def unique_values(x: Any, /) -> Any:
    return tf.unique(tf.sort(tf.reshape(received(x), [-1]))).y


class _Unique(NamedTuple):
    values: Any
    indices: Any
    inverse_indices: Any
    counts: Any


class _UniqueCounts(NamedTuple):
    values: Any
    counts: Any


class _UniqueInverse(NamedTuple):
    values: Any
    inverse_indices: Any


def unique_all(x: Any, /) -> _Unique:
    x = tensor_of(x)
    flat = tf.reshape(x, [-1])
    order = tf.argsort(flat, stable=True)
    values, inverse, counts = tf.unique_with_counts(tf.gather(flat, order), tf.int64)
    firsts = tf.gather(order, tf.cumsum(counts, exclusive=True))
    places = tf.scatter_nd(order[:, None], inverse, tf.shape(flat, order.dtype))
    return _Unique(values, tf.cast(firsts, tf.int64), tf.reshape(places, tf.shape(x)), counts)


def unique_counts(x: Any, /) -> _UniqueCounts:
    found = unique_all(x)
    return _UniqueCounts(found.values, found.counts)


def unique_inverse(x: Any, /) -> _UniqueInverse:
    found = unique_all(x)
    return _UniqueInverse(found.values, found.inverse_indices)
