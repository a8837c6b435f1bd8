"""Batches larger than memory: their parts go through the networks one after the other."""

from collections.abc import Callable

import tensorflow as tf

from vfd_tf.hyperparameters import InputError


def in_parts(function: Callable, count: int, *arrays) -> list:
    """The results of a function of each of `count` equal parts of arrays [n, ...].

    Each part waits for the one before it, so that the memory of one part is enough. An
    array that is None is None in every part.
    """
    if count == 1:
        return [function(*arrays)]
    results, divided = [], [a if a is None else tf.split(a, count) for a in arrays]
    for i in range(count):
        before = [t for t in tf.nest.flatten(results[-1:]) if tf.is_tensor(t)]
        with tf.control_dependencies(before):
            part = [None if a is None else tf.identity(a[i]) for a in divided]
        results.append(function(*part))
    return results


def mean_gradients(parts: list[list]) -> list:
    """The mean of the gradients of parts, None where there is none."""
    means = []
    for gradients in zip(*parts, strict=True):
        known = [g if g is None else tf.convert_to_tensor(g) for g in gradients]
        missing = any(g is None for g in known)
        means.append(None if missing else tf.add_n(known) / len(known))
    return means


def joined(parts: list[dict]) -> dict:
    """Per-example tensors [n / count] of the parts as those of the batch [n]."""
    return {name: tf.concat([part[name] for part in parts], 0) for name in parts[0]}


def check_divides(size: int, replicas: int, parts: int) -> None:
    """Raises `InputError` for a batch that replicas and parts can't share equally."""
    step = replicas * parts
    if size % step == 0:
        return
    near = [n for n in (size // step * step, -(-size // step) * step) if n]
    shares = f"{replicas} replicas" if replicas > 1 else ""
    divided = f"in {parts} parts (accumulate_steps)" if parts > 1 else ""
    raise InputError(
        f"A global batch of {size} can't be shared equally by "
        f"{' '.join(filter(None, (shares, divided)))}; the nearest sizes that can are "
        f"{' and '.join(map(str, near))}."
    )
