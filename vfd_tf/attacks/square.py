"""Square: random search over square patches, with the model's outputs alone.

Andriushchenko et al. 2020, https://arxiv.org/abs/1912.00049
"""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from vfd_tf import losses, noise
from vfd_tf.attacks.attack import Iterated, box, choose_images
from vfd_tf.attacks.norms import BALLS, l2_norm
from vfd_tf.attacks.threat import epsilon_field, norm_field
from vfd_tf.hyperparameters import InputError, component, hyper
from vfd_tf.types import State, Tensor

# Query from which on -> divisor of `p_init`, for 10,000 queries.
SCHEDULE = {0: 1, 11: 2, 51: 4, 201: 8, 501: 16, 1001: 32, 2001: 64, 4001: 128}
SCHEDULE |= {6001: 256, 8001: 512}
# Streams of draws of the start, and of its cells, beyond those of the queries.
_START = 2**20
_CELLS = _START + 1


@component
class Square(Iterated):
    """Square attack: a proposal that raises the margin is kept, anything else forgotten.

    L-inf: starts at x + epsilon * stripes of +-1 across the longer side, proposes +-2
    epsilon in a square of each channel; L2: moves the perturbation's mass into a square,
    in the shape of a dent. Squares are drawn for every image by itself and cover a share
    `p_init` of it at first, less by a fixed schedule later.
    https://arxiv.org/abs/1912.00049
    """

    epsilon: float = epsilon_field()
    queries: int = hyper(5000, "proposals", minimum=1)
    norm: str = norm_field()
    restarts: int = hyper(1, "runs from different starts", minimum=1)
    p_init: float = hyper(0.8, "share of the image in the first squares", 0.0, 1.0)
    look = 100

    @property
    def iterations(self) -> int:
        return self.queries + 1  # the start is evaluated, too

    def begin(self, x: Tensor, start: Tensor | None, seeds: Tensor | None) -> State:
        if x.shape.rank not in (None, 4):
            raise InputError(
                f"Square takes images [n, h, w, c]; got shape {tuple(x.shape)}: add the "
                "channels with x[..., None]."
            )
        count, turn = tf.shape(x)[0], _turn(x)
        if start is None:
            start = turn(NORMS[self.norm].start(turn(x), self.epsilon, seeds))
        return {
            "x_adv": start,
            "margin": tf.zeros(count, x.dtype) - np.inf,
            "misclassified": tf.zeros(count, bool),
            "seeds": seeds,
        }

    def step(
        self, logits_fn: Callable, x: Tensor, objective: Callable, state: State, i: Tensor
    ) -> State:
        seeds = noise.fork(state["seeds"], i)
        turn, sides = _turn(x), self.sides(x.shape[1:3])
        side = tf.constant(sides)[tf.maximum(i - 1, 0)]
        wide = turn(x), turn(state["x_adv"])
        propose = NORMS[self.norm].propose
        proposal = turn(propose(*wide, self.epsilon, side, seeds, np.unique(sides)))
        return self.accept(logits_fn, objective, state, proposal, i)

    def accept(
        self,
        logits_fn: Callable,
        objective: Callable,
        state: State,
        proposal: Tensor,
        i: Tensor,
    ) -> State:
        """The state once a proposal (at i = 0 the start itself) was tried."""
        proposal = tf.cond(tf.equal(i, 0), lambda: state["x_adv"], lambda: proposal)
        logits = logits_fn(proposal)
        margin, success = losses.margin(objective.labels, logits), objective.success(logits)
        take = ~self.done(state) & ((margin > state["margin"]) | success)
        return {
            **state,
            "x_adv": choose_images(take, proposal, state["x_adv"]),
            "margin": tf.where(take, margin, state["margin"]),
            "misclassified": state["misclassified"] | success,
        }

    def sides(self, size: tuple[int, int]) -> np.ndarray:
        """Side of the square of each query, in pixels: int32 [queries]."""
        starts, divisors = np.array([*SCHEDULE]), np.array([*SCHEDULE.values()])
        index = np.searchsorted(starts, np.arange(self.queries), side="right") - 1
        share = self.p_init / divisors[index]
        wanted = np.round(np.sqrt(share * math.prod(size)))
        return NORMS[self.norm].sides(wanted, min(size)).astype("int32")

    def done(self, state: State) -> Tensor:
        return state["misclassified"]


def _turn(x):
    """What makes tall images wide, and them tall again; others stay as they are."""
    tall = x.shape[1] > x.shape[2]
    return (lambda images: tf.transpose(images, [0, 2, 1, 3])) if tall else tf.identity


def window(row, column, side, shape):
    """Where the square is: bool [n, h, w, 1] of its corner [n], [n] and its side."""
    rows, columns = tf.range(shape[0])[None, :], tf.range(shape[1])[None, :]
    in_rows = (rows >= row[:, None]) & (rows < row[:, None] + side)
    in_columns = (columns >= column[:, None]) & (columns < column[:, None] + side)
    return in_rows[:, :, None, None] & in_columns[:, None, :, None]


def _draws(seeds, channels, squares):
    """All that a proposal draws: signs [n, 1, 1, c], then u in [0, 1) [n] each.

    Two for the corner of each square, and one more. A single draw, as hundreds of small
    operations would take as long as a small network.
    """
    u = noise.uniform(seeds, (channels + 2 * squares + 1,))
    signs = tf.where(u[:, :channels] < 0.5, -1.0, 1.0)
    return signs[:, None, None, :], *tf.unstack(u[:, channels:], axis=1)


def _corner(u_row, u_column, side, shape):
    """Row and column of a square in the image, uniform: [n], [n]."""

    def place(u, extent):
        return tf.cast(u * tf.cast(tf.maximum(extent - side, 1), u.dtype), tf.int32)

    return place(u_row, shape[0]), place(u_column, shape[1])


def _signs(seeds, shape, dtype):
    u = noise.uniform(seeds, shape, -1.0, 1.0, dtype)
    return tf.where(u < 0, -tf.ones_like(u), tf.ones_like(u))


class LinfSquares:
    """Square's start and proposals in an L-inf ball."""

    @staticmethod
    def sides(wanted, largest):
        return np.clip(wanted, 1, largest)

    @staticmethod
    def start(x, epsilon, seeds):
        _, width, channels = x.shape[1:]
        signs = _signs(noise.fork(seeds, _START), (1, width, channels), x.dtype)
        return box(x + epsilon * signs)

    @classmethod
    def propose(cls, x, x_adv, epsilon, side, seeds, sides=None):
        sign, *place, _ = _draws(seeds, x.shape[-1], squares=1)
        where = window(*_corner(*place, side, x.shape[1:]), side, x.shape[1:])
        return cls.shift(x, x_adv, epsilon, where, tf.cast(sign, x.dtype))

    @staticmethod
    def shift(x, x_adv, epsilon, where, sign):
        """x_adv with 2 epsilon * sign [n, 1, 1, c] in the window, back in ball and box."""
        moved = x_adv + 2 * epsilon * sign * tf.cast(where, x.dtype)
        return box(BALLS["linf"].project(x, moved, epsilon))


class L2Squares:
    """Square's start and proposals in an L2 ball."""

    @staticmethod
    def sides(wanted, largest):
        wanted = np.maximum(wanted, 3)
        return np.minimum(wanted + (wanted % 2 == 0), largest)

    @staticmethod
    def start(x, epsilon, seeds):
        """A dent in every cell of a 5 x 5 grid, each with its own signs."""
        height, width, channels = x.shape[1:]
        side = max(height // 5, 1)
        offset = (height - 5 * side) // 2 if height >= 5 else 0
        rows, columns = height // side, width // side
        cells, count = rows * columns, tf.shape(x)[0]
        streams = tf.tile(_CELLS + tf.range(cells), [count])
        seeds = noise.fork(tf.repeat(seeds, cells, 0), streams)
        sign, turn = _draws(seeds, channels, squares=0)
        dent = tf.constant(dents([side])[0], x.dtype)[..., None]
        turned = tf.transpose(dent, [1, 0, 2])
        every = tf.where(turn[:, None, None, None] > 0.5, turned, dent)
        every = tf.reshape(
            every * tf.cast(sign, x.dtype), [-1, rows, columns, side, side, channels]
        )
        grid = tf.reshape(
            tf.transpose(every, [0, 1, 3, 2, 4, 5]),
            [-1, rows * side, columns * side, channels],
        )
        grid = tf.pad(grid, [[0, 0], [offset, side], [offset, side], [0, 0]])
        return box(x + _unit(grid[:, :height, :width]) * epsilon)

    @staticmethod
    def propose(x, x_adv, epsilon, side, seeds, sides):
        """`sides` are those that may come, in order."""
        delta, shape, channels = x_adv - x, x.shape[1:], x.shape[-1]
        sign, *places, turn = _draws(seeds, channels, squares=2)
        row, column = _corner(*places[:2], side, shape)
        into = tf.cast(window(row, column, side, shape), x.dtype)
        out_of = window(*_corner(*places[2:], side, shape), side, shape)
        out_of = tf.cast(out_of, x.dtype)
        mass = _mass(delta * tf.maximum(into, out_of))
        unused = tf.nn.relu(epsilon**2 - tf.square(l2_norm(delta)))
        pattern = tf.constant(dents(sides), x.dtype)[tf.searchsorted(sides, [side])[0]]
        new = _dent(turn, pattern, row, column, x) * tf.cast(sign, x.dtype)
        new += delta * into / (1e-12 + _mass(delta * into))
        new *= tf.sqrt(unused / channels + tf.square(mass)) / (1e-12 + _mass(new))
        kept = delta * (1 - tf.maximum(into, out_of))
        return box(x + _unit(kept + new * into) * epsilon)


NORMS = {"linf": LinfSquares, "l2": L2Squares}


def _mass(delta):
    """||delta||_2 of each channel: [n, h, w, c] -> [n, 1, 1, c]."""
    return tf.sqrt(tf.reduce_sum(tf.square(delta), [1, 2], keepdims=True))


def _unit(delta):
    return delta / (l2_norm(delta) + 1e-12)


def _dent(turn, pattern, row, column, x):
    """The pattern, turned by 90 degrees where `turn` > 0.5, in each image: [n, h, w, 1]."""
    height, width = x.shape[1:3]
    last = tf.shape(pattern)[0] - 1
    rows = tf.range(height)[None, :] - row[:, None]
    columns = tf.range(width)[None, :] - column[:, None]
    inside = ((rows >= 0) & (rows <= last))[:, :, None] & (
        (columns >= 0) & (columns <= last)
    )[:, None, :]
    r = tf.clip_by_value(rows, 0, last)[:, :, None] + tf.zeros_like(columns)[:, None, :]
    c = tf.clip_by_value(columns, 0, last)[:, None, :] + tf.zeros_like(rows)[:, :, None]
    turn = turn[:, None, None] > 0.5
    at = tf.stack([tf.where(turn, c, r), tf.where(turn, r, c)], -1)
    values = tf.where(inside, tf.gather_nd(pattern, at), tf.zeros([], pattern.dtype))
    return values[..., None]


def dents(sides) -> np.ndarray:
    """Patterns of norm 1 for squares of these sides, in the corner of the largest."""
    largest = max(sides)
    table = np.zeros((len(sides), largest, largest))
    for pattern, side in zip(table, sides, strict=True):
        half = side // 2
        pattern[:half, :side] = _bump(half, side)
        pattern[half:side, :side] = -_bump(side - half, side)
        pattern /= max(np.sqrt((pattern**2).sum()), 1e-12)
    return table


def _bump(height, width):
    """Nested rectangles around the centre, of heights 1 / k^2, norm 1."""
    bump = np.zeros((height, width))
    row, column = height // 2, width // 2
    for k in range(max(height // 2 + 1, width // 2 + 1)):
        rows = slice(max(row - k, 0), min(row + k + 1, height))
        columns = slice(max(column - k, 0), min(column + k + 1, width))
        bump[rows, columns] += 1 / (k + 1) ** 2
    return bump / max(np.sqrt((bump**2).sum()), 1e-12)
