"""Batches larger than memory: their parts go through the networks one after the other."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from vfd_tf.hyperparameters import InputError


def in_parts(function: Callable, count: int, *arrays) -> list:
    """The results of a function of each of `count` equal parts of arrays [n, ...].

    Each part waits for the one before it, so that the memory of one part is enough. An
    array that is None is None in every part; one that comes twice is one tensor in each.
    """
    if count == 1:
        return [function(*arrays)]
    results, divided = [], {id(a): tf.split(a, count) for a in arrays if a is not None}
    for i in range(count):
        before = [t for t in tf.nest.flatten(results[-1:]) if tf.is_tensor(t)]
        with tf.control_dependencies(before):
            part = {key: tf.identity(parts[i]) for key, parts in divided.items()}
        results.append(function(*(part.get(id(a)) for a in arrays)))
    return results


def mean_gradients(parts: list[list]) -> list:
    """The mean of the gradients of parts, None where there is none."""
    if len(parts) == 1:
        return parts[0]
    means = []
    for gradients in zip(*parts, strict=True):
        known = [g if g is None else tf.convert_to_tensor(g) for g in gradients]
        missing = any(g is None for g in known)
        means.append(None if missing else tf.add_n(known) / len(known))
    return means


def joined(parts: list) -> Any:
    """Tensors [n / count, ...] of the parts, or dicts of them, as those of the batch."""
    if len(parts) == 1:
        return parts[0]
    return tf.nest.map_structure(lambda *tensors: tf.concat(tensors, 0), *parts)


def check_divides(size: int, replicas: int, parts: int) -> None:
    """Raises `InputError` for a batch that replicas and parts can't share equally."""
    step = replicas * parts
    if size % step == 0:
        return
    near = [n for n in (size // step * step, -(-size // step) * step) if n]
    shares = [f"{replicas} replicas"] if replicas > 1 else []
    shares += [f"{parts} parts (accumulate_steps)"] if parts > 1 else []
    raise InputError(
        f"A global batch of {size} can't be shared equally by {' of '.join(shares)}; the "
        f"nearest that can {'is' if len(near) == 1 else 'are'} "
        f"{' and '.join(map(str, near))}."
    )
