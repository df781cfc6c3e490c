"""Deep Q-learning: a network learns to catch falling balls, and everything that it remembers is in variables.

    python examples/dqn.py
    python examples/dqn.py --backend jax --picture dqn.svg

A ball falls in one of five columns, and a paddle at the bottom moves left, stays, or moves right. To catch the ball is
worth 1, to miss it -1 (the game Catch of Mnih et al. 2014 and bsuite). Several games are played at once. One compiled
function plays a step of each, writes it to a ring XX from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from optimizers import Adam
from recipe import Step, array_like, compare, parser, picture, run

import statevar as sv

COLUMNS, ROWS, ACTIONS = 5, 8, 3
FEATURES = 2 * COLUMNS + ROWS
GAMES, HIDDEN, BATCH, CAPACITY = 16, 32, 64, 4096
RATE, DISCOUNT, COPY_EVERY, LEAST_RANDOM = 1e-2, 0.97, 20, 0.02


class Catch(sv.Module):
    """Games that are played at once: where each ball and each paddle is."""

    def __init__(self, backend: str):
        state = partial(sv.Variable, backend=backend, trainable=False, dtype="int32")
        self.column = state(np.arange(GAMES) % COLUMNS, name="column")
        self.row = state(np.arange(GAMES) % ROWS, name="row")  # so that not all games end at the same time
        self.paddle = state(np.full(GAMES, COLUMNS // 2), name="paddle")
        self.xp = sv.namespace(self.column)

    def seen(self) -> Any:
        """What the player sees of each game: the column and the row of the ball and the column of the paddle."""
        xp = self.xp
        places = ((self.column, COLUMNS), (self.row, ROWS), (self.paddle, COLUMNS))
        return xp.concat([one_hot(xp, v.value, size) for v, size in places], axis=1)

    def play(self, actions: Any, random: sv.Generator) -> tuple[Any, Any]:
        """Moves all; returns what each game is worth now, and which games have ended. Those begin again."""
        xp = self.xp
        self.paddle.assign(xp.clip(self.paddle + actions - 1, min=0, max=COLUMNS - 1))
        self.row.assign_add(1)
        ended = self.row.value == ROWS - 1
        reward = xp.where(ended, xp.where(self.column.value == self.paddle.value, 1.0, -1.0), 0.0)
        self.row.assign(xp.where(ended, 0, self.row))
        self.column.assign(xp.where(ended, random.integers(COLUMNS, shape=GAMES), self.column))
        self.paddle.assign(xp.where(ended, COLUMNS // 2, self.paddle))
        return reward, ended


class Replay(sv.Module):
    """The newest transitions, in a ring buffer: of each a row of every variable."""

    def __init__(self, backend: str, capacity: int):
        state = partial(sv.Variable, backend=backend, trainable=False)
        self.seen = state("zeros", (capacity, FEATURES), name="seen")
        self.actions = state("zeros", capacity, dtype="int32", name="actions")
        self.rewards = state("zeros", capacity, name="rewards")
        self.goes_on = state("zeros", capacity, name="goes_on")
        self.then = state("zeros", (capacity, FEATURES), name="then")
        self.added = state(0, name="added")
        self.columns = [self.seen, self.actions, self.rewards, self.goes_on, self.then]
        self.capacity, self.xp = capacity, sv.namespace(self.seen)

    def add(self, *values: Any) -> None:
        """Rows take the place of the oldest ones."""
        rows = (self.added + self.xp.arange(GAMES)) % self.capacity
        for column, value in zip(self.columns, values, strict=True):
            column.at[rows].set(value)
        self.added.assign_add(GAMES)

    def sample(self, random: sv.Generator) -> list[Any]:
        """Rows at random from those that were written."""
        filled = self.xp.clip(self.added.value, max=self.capacity)
        rows = random.integers(0, filled, shape=BATCH)
        return [column[rows] for column in self.columns]


class Scores(sv.Module):
    """The network: what each action is worth, in the long run."""

    def __init__(self, backend: str, seed: int, *, trainable: bool):
        weight = partial(sv.Variable, backend=backend, trainable=trainable)
        self.kernel = weight("glorot_uniform", (FEATURES, HIDDEN), name="kernel", seed=seed)
        self.bias = weight("zeros", HIDDEN, name="bias")
        self.output = weight("glorot_uniform", (HIDDEN, ACTIONS), name="output", seed=seed + 1)
        self.weights = [self.kernel, self.bias, self.output]
        self.xp = sv.namespace(self.kernel)

    def __call__(self, seen: Any) -> Any:
        return self.xp.tanh(seen @ self.kernel + self.bias) @ self.output


class Learner(sv.Module):
    """A player that learns. A checkpoint of it has the games, the buffer and the random numbers as well."""

    def __init__(self, backend: str, seed: int, steps: int):
        state = partial(sv.Variable, backend=backend, trainable=False)
        self.online = Scores(backend, seed, trainable=True)
        self.target = Scores(backend, seed, trainable=False)  # the same weights, since the seed is the same
        self.optimizer = Adam(self.online.weights, rate=RATE)
        self.games, self.replay = Catch(backend), Replay(backend, CAPACITY)
        self.random = sv.Generator(seed, backend=backend)
        self.chance = state(1.0, name="chance")  # of an action at random
        self.fall = state(2.0 / steps, name="fall")
        self.steps = state(0, name="steps")
        self.xp = sv.namespace(self.steps)

    def act(self, seen: Any) -> Any:
        """The best action of each game; with a probability that falls from 1, any."""
        best = self.xp.astype(self.xp.argmax(self.online(seen), axis=1), self.xp.int32)
        explores = self.random.bernoulli(self.chance, GAMES)
        return self.xp.where(explores, self.random.integers(ACTIONS, shape=GAMES), best)

    def loss(self, seen: Any, actions: Any, goal: Any) -> Any:
        chosen = self.xp.sum(one_hot(self.xp, actions, ACTIONS) * self.online(seen), axis=1)
        return self.xp.mean((chosen - goal) ** 2)

    def descend(self, seen: Any, actions: Any, rewards: Any, goes_on: Any, then: Any) -> Any:
        """Moves the network towards the reward and what the target network says of the state that followed."""
        goal = rewards + DISCOUNT * goes_on * self.xp.max(self.target(then), axis=1)
        loss, gradients = sv.value_and_grad(self.loss, self.online.weights)(seen, actions, goal)
        self.optimizer.apply(self.online.weights, gradients)
        return loss

    @sv.jit
    def play(self) -> tuple[Any, Any]:
        """Plays one step of every game; returns the rewards, and which games have ended."""
        seen = self.games.seen()
        actions = self.act(seen)
        rewards, ended = self.games.play(actions, self.random)
        goes_on = self.xp.astype(~ended, self.xp.float32)
        self.replay.add(seen, actions, rewards, goes_on, self.games.seen())
        self.chance.assign(self.xp.clip(self.chance - self.fall, min=LEAST_RANDOM))
        self.steps.assign_add(1)
        return rewards, ended

    @sv.jit
    def learn(self) -> Any:
        """Learns from a batch of the buffer."""
        return self.descend(*self.replay.sample(self.random))

    def copy_to_target(self) -> None:
        """All of the weights at once: no other thread sees a part of them."""
        with sv.transaction(self.target):
            for target, weight in zip(self.target.weights, self.online.weights, strict=True):
                target.assign(weight)


def one_hot(xp: Any, numbers: Any, size: int) -> Any:
    return xp.astype(numbers[:, None] == xp.arange(size), xp.float32)


def train(learner: Learner, steps: int) -> list[float]:
    """The mean return of the games that ended in each part of the training, of which there are 25."""
    means: list[float] = []
    returns: list[float] = []
    for step in range(1, steps + 1):
        rewards, ended = map(np.asarray, learner.play())
        learner.learn()
        returns.extend(rewards[ended].tolist())
        if step % COPY_EVERY == 0:
            learner.copy_to_target()
        if step % max(1, steps // 25) == 0:
            means.append(float(np.mean(returns)) if returns else 0.0)
            returns.clear()
    return means


# -- the plain programs, which the speed is compared with ------------------------------------------------------------
# Each learns from one batch, as `Learner.descend` does.

Batch = tuple[Any, ...]


def plain_numpy(weights: list[Any], batch: Batch) -> Step:
    seen, actions, rewards, goes_on, then = batch
    kernel, bias, output = weights
    target, means, squares = ([f(each) for each in weights] for f in (np.copy, np.zeros_like, np.zeros_like))
    rows, steps = np.arange(len(actions)), 0

    def step() -> Any:
        nonlocal steps
        steps += 1
        goal = rewards + DISCOUNT * goes_on * (np.tanh(then @ target[0] + target[1]) @ target[2]).max(1)
        hidden = np.tanh(seen @ kernel + bias)
        errors = np.zeros((len(actions), ACTIONS), "float32")
        errors[rows, actions] = (2 / len(actions)) * ((hidden @ output)[rows, actions] - goal)
        back = errors @ output.T * (1 - hidden * hidden)
        for weight, mean, square, gradient in zip(
            weights, means, squares, (seen.T @ back, back.sum(0), hidden.T @ errors), strict=True
        ):
            mean[:] = 0.9 * mean + 0.1 * gradient
            square[:] = 0.999 * square + 0.001 * gradient * gradient
            direction = mean / (1 - 0.9**steps) / (np.sqrt(square / (1 - 0.999**steps)) + 1e-8)
            np.subtract(weight, RATE * direction, out=weight)
        return bias[0]

    return step


def plain_jax(weights: list[Any], batch: Batch) -> Step:
    import jax
    import jax.numpy as jnp
    import optax

    optimizer = optax.adam(RATE)

    def scores(weights: Any, seen: Any) -> Any:
        return jnp.tanh(seen @ weights[0] + weights[1]) @ weights[2]

    def loss(weights: Any, seen: Any, actions: Any, goal: Any) -> Any:
        chosen = (jax.nn.one_hot(actions, ACTIONS) * scores(weights, seen)).sum(1)
        return ((chosen - goal) ** 2).mean()

    def learn(weights: Any, state: Any, target: Any, batch: Any) -> Any:
        seen, actions, rewards, goes_on, then = batch
        goal = rewards + DISCOUNT * goes_on * scores(target, then).max(1)
        found, gradients = jax.value_and_grad(loss)(weights, seen, actions, goal)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(weights, updates), state, found

    compiled = jax.jit(learn, donate_argnums=(0, 1))
    target, values = [jnp.array(each) for each in weights], [jnp.array(each) for each in weights]
    state, arrays = optimizer.init(values), [jnp.array(each) for each in batch]

    def step() -> Any:
        nonlocal values, state
        values, state, found = compiled(values, state, target, arrays)
        return found

    return step


def plain_torch(weights: list[Any], batch: Batch) -> Step:
    import torch

    parameters = [torch.nn.Parameter(torch.tensor(each)) for each in weights]
    target, arrays = [each.detach().clone() for each in parameters], [torch.tensor(each) for each in batch]
    optimizer = torch.optim.Adam(parameters, lr=RATE)

    def scores(weights: Any, seen: Any) -> Any:
        return torch.tanh(seen @ weights[0] + weights[1]) @ weights[2]

    def step() -> Any:
        seen, actions, rewards, goes_on, then = arrays
        goal = rewards + DISCOUNT * goes_on * scores(target, then).amax(1)
        chosen = scores(parameters, seen).gather(1, actions[:, None].long())[:, 0]
        loss = ((chosen - goal) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def plain_tensorflow(weights: list[Any], batch: Batch) -> Step:
    import keras
    import tensorflow as tf

    variables, target = [tf.Variable(each) for each in weights], [tf.Variable(each) for each in weights]
    seen, actions, rewards, goes_on, then = (tf.constant(each) for each in batch)
    optimizer = keras.optimizers.Adam(RATE)
    optimizer.build(variables)

    def scores(weights: Any, seen: Any) -> Any:
        return tf.tanh(seen @ weights[0] + weights[1]) @ weights[2]

    @tf.function  # type: ignore[untyped-decorator]  # the library ships no types
    def step() -> Any:
        goal = rewards + DISCOUNT * goes_on * tf.reduce_max(scores(target, then), axis=1)
        with tf.GradientTape() as tape:
            chosen = tf.reduce_sum(tf.one_hot(actions, ACTIONS) * scores(variables, seen), axis=1)
            loss = tf.reduce_mean((chosen - goal) ** 2)
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    return step  # type: ignore[no-any-return]  # the library ships no types


PLAIN: dict[str, tuple[str, Callable[[list[Any], Batch], Step]]] = {
    "numpy": ("NumPy by hand", plain_numpy),
    "jax": ("jax.jit and optax", plain_jax),
    "torch": ("torch.optim", plain_torch),
    "tensorflow": ("tf.function and keras.optimizers", plain_tensorflow),
}


def beside(learner: Learner, rounds: int) -> dict[str, float]:
    backend = learner.steps.backend
    batch = tuple(sv.Variable(each).numpy() for each in learner.replay.sample(learner.random))
    given = [array_like(learner.steps, each, each.dtype.name) for each in batch]
    name, make = PLAIN[backend]
    plain = make([each.numpy().copy() for each in learner.online.weights], batch)
    descend = sv.jit(learner.descend)
    return compare(f"{backend}: learning from a batch", lambda: descend(*given), {name: plain}, rounds)


# -- the command ---------------------------------------------------------------------------------------------------


def draw(file: Any, steps: int, means: dict[int, list[float]]) -> None:
    with picture(file) as figure:
        axes = figure.subplots()
        for seed, each in means.items():
            axes.plot(np.linspace(0, steps, len(each) + 1)[1:], each, label=f"seed {seed}")
        axes.set(xlabel="step", ylabel="mean return", ylim=(-1.05, 1.05))
        axes.legend()


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    command = parser(__doc__, steps=1500)
    options = command.parse_args(arguments)
    backend, steps, seed = options.backend, options.steps, options.seed
    learner = Learner(backend, seed, steps)
    means = train(learner, steps)
    print(f"{backend}: {steps} steps of {GAMES} games: mean return {means[0]:.2f} at first, {means[-1]:.2f} at last")
    found = {"first": means[0], "last": means[-1], "weight": float(learner.online.output.numpy()[0, 0])}
    beside(learner, options.rounds)  # which goes on learning
    if options.picture:
        others = {other: train(Learner(backend, other, steps), steps) for other in (seed + 1, seed + 2)}
        draw(options.picture, steps, {seed: means, **others})
    return found


if __name__ == "__main__":
    run(main)
