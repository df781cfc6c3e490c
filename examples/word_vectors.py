"""Word vectors: skip-gram with negative sampling, which writes only the rows of the words that it meets.

    python examples/word_vectors.py
    python examples/word_vectors.py --backend jax --picture words.svg

The corpus is made here, of sentences such as "two red cats eat fish in rome", so it is known which words are alike:
those of one group, which stand in the same place. The program prints how often the nearest word is one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from recipe import Step, array_like, compare, parser, picture, run

import statevar as sv

GROUPS = {
    "numbers": "two three four five six seven",
    "colours": "red blue green white black brown",
    "animals": "cats dogs horses cows goats mice",
    "verbs": "eat want find steal buy like",
    "foods": "fish bread cheese apples rice beans",
    "cities": "rome paris london cairo delhi lima",
}
SENTENCE = ["numbers", "colours", "animals", "verbs", "foods", "in", "cities"]
WORDS = [word for words in GROUPS.values() for word in words.split()] + ["in"]
WINDOW, NEGATIVES, DIMENSION, BATCH, RATE = 2, 5, 8, 128, 0.025


def pairs(seed: int) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Batches of words, and for each a word beside it, followed by others drawn at random."""
    rng, number = np.random.default_rng(seed), {word: i for i, word in enumerate(WORDS)}
    choices = [[number[word] for word in GROUPS.get(place, place).split()] for place in SENTENCE]
    places = [(i, j) for i in range(len(choices)) for j in range(len(choices)) if 0 < abs(i - j) <= WINDOW]
    while True:
        sentences = np.stack([rng.choice(each, size=BATCH) for each in choices], axis=1)
        i, j = np.array(places)[rng.integers(len(places), size=BATCH)].T
        rows = np.arange(BATCH)
        others = rng.integers(len(WORDS), size=(BATCH, NEGATIVES))
        yield sentences[rows, i], np.concatenate([sentences[rows, j][:, None], others], axis=1)


class WordVectors(sv.Module):
    """A vector for each word as it stands, and one for each word as a neighbour."""

    def __init__(self, backend: str, words: int, dimension: int, seed: int):
        shape = (words, dimension)
        self.vectors = sv.Variable("uniform", shape, name="vectors", backend=backend, seed=seed)
        self.contexts = sv.Variable("zeros", shape, name="contexts", backend=backend)
        self.tables = [self.vectors, self.contexts]
        self.xp = sv.namespace(self.vectors)

    def labels(self, near: Any) -> Any:
        """1 for the word that was there, the first of each row; 0 for the others."""
        one_row = np.arange(near.shape[1]) == 0
        return array_like(self.vectors, np.broadcast_to(one_row, near.shape))

    @sv.jit
    def step(self, words: Any, near: Any) -> Any:
        """Goes against the gradient, which is 0 but for the rows of these words: only those are read and written."""
        xp = self.xp
        vectors, contexts = self.vectors[words], self.contexts[near]
        scores = xp.sum(vectors[:, None, :] * contexts, axis=2)
        errors = (1 / (1 + xp.exp(-scores)) - self.labels(near))[:, :, None]
        self.vectors.at[words].add(-RATE * xp.sum(errors * contexts, axis=1))
        self.contexts.at[near].add(-RATE * errors * vectors[:, None, :])
        return xp.mean(errors * errors)

    def loss(self, words: Any, near: Any) -> Any:
        """The function that `step` descends."""
        xp = self.xp
        scores = xp.sum(self.vectors[words][:, None, :] * self.contexts[near], axis=2)
        return xp.sum(xp.log1p(xp.exp(-scores)) + (1 - self.labels(near)) * scores)

    @sv.jit
    def dense_step(self, words: Any, near: Any) -> Any:
        """The same step by a gradient as large as the tables."""
        loss, gradients = sv.value_and_grad(self.loss, self.tables)(words, near)
        for table, gradient in zip(self.tables, gradients, strict=True):
            table.assign_sub(RATE * gradient)
        return loss


def alike(vectors: np.ndarray[Any, Any]) -> float:
    """How many words of the groups have a word of their own group as the nearest one, by cosine."""
    size = len(WORDS) - 1
    unit = vectors[:size] / np.linalg.norm(vectors[:size], axis=1, keepdims=True)
    cosines = unit @ unit.T - 2 * np.eye(size)
    group = np.repeat(np.arange(len(GROUPS)), size // len(GROUPS))
    return float(np.mean(group[cosines.argmax(axis=1)] == group))


# -- the plain programs, which the speed is compared with ------------------------------------------------------------
# Each writes the same rows. `changes` is the computation, which they share.


def changes(exp: Callable[[Any], Any], vectors: Any, contexts: Any, labels: Any) -> tuple[Any, Any]:
    """What is added to the rows of the words, and to those of their neighbours."""
    scores = (vectors[:, None, :] * contexts).sum(2)
    errors = (1 / (1 + exp(-scores)) - labels)[:, :, None]
    return -RATE * (errors * contexts).sum(1), -RATE * errors * vectors[:, None, :]


def plain_numpy(tables: Any, words: Any, near: Any, labels: Any) -> Step:
    vectors, contexts = tables

    def step() -> Any:
        to_words, to_near = changes(np.exp, vectors[words], contexts[near], labels)
        np.add.at(vectors, words, to_words)
        np.add.at(contexts, near, to_near)
        return to_words[0, 0]

    return step


def plain_jax(tables: Any, words: Any, near: Any, labels: Any) -> Step:
    import jax
    import jax.numpy as jnp

    @partial(jax.jit, donate_argnums=0)
    def update(tables: Any, words: Any, near: Any) -> Any:
        vectors, contexts = tables
        to_words, to_near = changes(jnp.exp, vectors[words], contexts[near], labels)
        return (vectors.at[words].add(to_words), contexts.at[near].add(to_near)), to_words[0, 0]

    held = tuple(map(jnp.array, tables))
    words, near, labels = jnp.array(words), jnp.array(near), jnp.array(labels)

    def step() -> Any:
        nonlocal held
        held, first = update(held, words, near)
        return first

    return step


def plain_torch(tables: Any, words: Any, near: Any, labels: Any) -> Step:
    import torch

    vectors, contexts, words, near, labels = map(torch.tensor, (*tables, words, near, labels))

    def step() -> Any:
        to_words, to_near = changes(torch.exp, vectors[words], contexts[near], labels)
        vectors.index_add_(0, words, to_words)
        contexts.index_add_(0, near.flatten(), to_near.flatten(0, 1))
        return to_words[0, 0]

    return step


def plain_tensorflow(tables: Any, words: Any, near: Any, labels: Any) -> Step:
    import tensorflow as tf

    vectors, contexts = map(tf.Variable, tables)
    words, near, labels = map(tf.constant, (words, near, labels))

    @tf.function  # type: ignore[untyped-decorator]  # the library ships no types
    def step(words: Any, near: Any) -> Any:
        of_words, of_near = tf.gather(vectors, words)[:, None, :], tf.gather(contexts, near)
        errors = (tf.sigmoid(tf.reduce_sum(of_words * of_near, 2)) - labels)[:, :, None]
        to_words = -RATE * tf.reduce_sum(errors * of_near, 1)
        vectors.scatter_add(tf.IndexedSlices(to_words, words))
        contexts.scatter_add(tf.IndexedSlices(-RATE * errors * of_words, near))
        return to_words[0, 0]

    return lambda: step(words, near)


PLAIN: dict[str, tuple[str, Callable[..., Step]]] = {
    "numpy": ("np.add.at", plain_numpy),
    "jax": (".at[].add in jax.jit", plain_jax),
    "torch": ("index_add_", plain_torch),
    "tensorflow": ("scatter_add in tf.function", plain_tensorflow),
}


def beside(backend: str, size: int, rounds: int) -> dict[str, float]:
    """A batch in tables of many words, by rows and by dense gradients."""
    model = WordVectors(backend, size, 32, seed=0)
    rng = np.random.default_rng(0)
    words, near = (rng.integers(size, size=shape).astype("int32") for shape in ((BATCH,), (BATCH, 1 + NEGATIVES)))
    name, make = PLAIN[backend]
    plain = make([each.numpy().copy() for each in model.tables], words, near, np.asarray(model.labels(near)))
    ours = [array_like(model.vectors, each, "int32") for each in (words, near)]
    others = {name: plain, "dense gradients": lambda: model.dense_step(*ours)}
    return compare(f"{backend}: a batch in tables of {size:,} words", lambda: model.step(*ours), others, rounds)


# -- the command ---------------------------------------------------------------------------------------------------


def draw(file: Any, vectors: np.ndarray[Any, Any]) -> None:
    """The two directions in which the vectors differ most."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    points = (unit - unit.mean(axis=0)) @ np.linalg.svd(unit - unit.mean(axis=0))[2][:2].T
    with picture(file, 6.4, 4.4) as figure:
        axes = figure.subplots()
        for i, (group, words) in enumerate(GROUPS.items()):
            for word in words.split():
                axes.annotate(word, points[WORDS.index(word)], color=f"C{i}", ha="center", fontsize=8)
            rows = [WORDS.index(word) for word in words.split()]
            axes.plot(*points[rows].T, ".", alpha=0.3, color=f"C{i}", label=group)
        axes.set(xticks=(), yticks=())
        axes.legend()


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    command = parser(__doc__, steps=400)
    command.add_argument("--size", default=20_000, type=int, help="words of the tables whose speed is measured")
    options = command.parse_args(arguments)
    model = WordVectors(options.backend, len(WORDS), DIMENSION, options.seed)
    for _, batch in zip(range(options.steps), pairs(options.seed), strict=False):
        error = model.step(*(array_like(model.vectors, each, "int32") for each in batch))
    found = alike(model.vectors.numpy())
    mean_error, nearest = float(error), f"{100 * found:.0f} % of the words have one of their group as the nearest"
    print(f"{options.backend}: {options.steps} steps, error {mean_error:.4f}; {nearest}")
    if options.rounds:
        beside(options.backend, options.size, options.rounds)
    if options.picture:
        draw(options.picture, model.vectors.numpy())
    return {"error": mean_error, "alike": found}


if __name__ == "__main__":
    run(main)
