"""Workers: the processes of one training, on several machines, and what they share.

The engine is `tf.distribute.MultiWorkerMirroredStrategy`: every worker runs the same
program, the gradients are summed over all of them. Worker 0 is the chief, the only one that
writes files others read.
"""

import contextlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from vfd_tf.evaluation.windows import Share
from vfd_tf.files import LOCK
from vfd_tf.hyperparameters import InputError

_CHUNK = 2**22  # numbers that are summed at once


class Cluster:
    """The workers of a strategy; a single process is a cluster of one.

    Every method is called by all workers, in the same order.

    Args:
        strategy: The `tf.distribute.Strategy` that trains.

    Attributes:
        index: Number of this worker, from 0.
        count: How many there are.
        addresses: Theirs, as each was told.
    """

    def __init__(self, strategy: tf.distribute.Strategy | None = None):
        self.strategy = strategy or tf.distribute.get_strategy()
        resolver = getattr(self.strategy, "cluster_resolver", None)
        jobs = resolver.cluster_spec().as_dict() if resolver else {}
        self.addresses = [a for name in sorted(jobs) for a in jobs[name]]
        self.count = max(1, len(self.addresses))
        self.index, self._summing = 0, None
        if self.count > 1:
            before = len(jobs.get("chief", ())) if resolver.task_type == "worker" else 0
            self.index = before + int(resolver.task_id or 0)

    @property
    def chief(self) -> bool:
        """Whether this worker writes the files that others read."""
        return self.index == 0

    @property
    def devices(self) -> tuple[str, ...]:
        """Of this worker, where there are several that can share an evaluation."""
        several = self.strategy.num_replicas_in_sync // self.count > 1
        return tuple(self.strategy.extended.worker_devices) if several else ()

    def in_turn(self, function: Callable) -> Any:
        """What a function returns, called by the chief before all others.

        What it makes and keeps on a disk, which workers may share, is then there for them.
        """
        if not self.chief:
            self.sum(np.zeros(1))
        result = function()
        if self.chief:
            self.sum(np.zeros(1))
        return result

    def share(self, data: Any) -> Any:
        """What this worker evaluates of a data set."""
        return data if self.count == 1 else Share(data, self.index, self.count)

    def whole(self, verdicts: np.ndarray, count: int) -> np.ndarray:
        """The verdicts bool [count] on a data set, of those of every worker's `share`."""
        if self.count == 1:
            return verdicts
        hits = np.zeros(count, "float32")
        hits[self.index :: self.count] = verdicts
        return self.sum(hits) > 0

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum of an array over all workers, in float32: exact for integers < 2^24."""
        if self.count == 1:
            return np.asarray(values)
        flat = np.asarray(values, "float32").ravel()
        parts = [flat[i : i + _CHUNK] for i in range(0, len(flat), _CHUNK)]
        summed = [self._sum(part) for part in parts]
        return np.concatenate([*summed, flat[:0]]).reshape(np.shape(values))

    def _sum(self, values):
        if self._summing is None:
            self._summing = tf.function(
                lambda v: self.strategy.run(self._sum_over_replicas, args=(v,)),
                reduce_retracing=True,
                autograph=False,
            )
        results = self._summing(tf.constant(values))
        return self.strategy.experimental_local_results(results)[0].numpy()

    @staticmethod
    def _sum_over_replicas(values):
        context = tf.distribute.get_replica_context()
        local = context.strategy.extended.worker_devices
        leads = context.replica_id_in_sync_group % len(local) == 0  # of one worker each
        own = tf.where(leads, values, tf.zeros_like(values))
        return context.all_reduce("SUM", own)

    def gather(self, values: np.ndarray) -> list[np.ndarray]:
        """The arrays, of one shape and kind, that all workers pass in, bit by bit."""
        values = np.ascontiguousarray(values)
        if self.count == 1:
            return [values]
        rows = np.zeros((self.count, values.nbytes), "uint8")
        rows[self.index] = np.frombuffer(values.tobytes(), "uint8")
        rows = self.sum(rows).astype("uint8")
        kind, shape = values.dtype, values.shape
        return [np.frombuffer(row.tobytes(), kind).reshape(shape) for row in rows]

    def from_chief(self, data: bytes = b"") -> bytes:
        """What the chief passes in."""
        if self.count == 1:
            return data
        data = data if self.chief else b""
        size = int(np.dot(self.sum(_digits(len(data))), [1.0, 2.0**16, 2.0**32]))
        own = np.zeros(-(-size // 2), "uint16")
        if self.chief:
            own = np.frombuffer(data + b"\0" * (size % 2), "uint16")
        return self.sum(own).astype("uint16").tobytes()[:size]

    def check_same(self, facts: dict[str, str]) -> None:
        """Raises `InputError` on every worker where one has other facts than the chief.

        Args:
            facts: Name -> value, such as {"--method": "hat"}; all are compared.
        """
        chief = json.loads(self.from_chief(json.dumps(facts).encode()))
        names = sorted(chief)
        rows = np.zeros((self.count, len(names) + 1), "float32")
        rows[self.index] = [*(facts.get(n) != chief[n] for n in names), facts != chief]
        differ = self.sum(rows).astype(bool)
        if not differ.any():
            return
        found = []
        for worker in np.flatnonzero(differ.any(1)):
            other = [n for n, unlike in zip(names, differ[worker], strict=False) if unlike]
            if worker == self.index and other:
                values = [f"{n} {facts.get(n)!r} instead of {chief[n]!r}" for n in other]
                found.append(f"worker {worker} (this one) has {', '.join(values)}")
            else:
                found.append(f"worker {worker} has another {', '.join(other) or 'version'}")
        raise InputError(
            f"Not all workers are alike: {'; '.join(found)}. Start all with the same "
            "command and versions."
        )

    def copy_folder(self, path: str) -> None:
        """Makes a folder of every worker a copy of the chief's, subfolders left out."""
        if self.count == 1:
            return
        packed = io.BytesIO()
        if self.chief:
            with tarfile.open(fileobj=packed, mode="w") as archive:
                for name in _finished_files(path):
                    with contextlib.suppress(FileNotFoundError):  # replaced just now
                        archive.add(os.path.join(path, name), name)
        data = self.from_chief(packed.getvalue())
        if self.chief:
            return
        os.makedirs(path, exist_ok=True)
        for name in _finished_files(path):
            os.remove(os.path.join(path, name))
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extractall(path, filter="data")


def _finished_files(path):
    """Names of the files in a folder that are no lock, and not being written."""
    names = os.listdir(path) if os.path.isdir(path) else ()
    files = (n for n in names if os.path.isfile(os.path.join(path, n)))
    return [n for n in files if n != LOCK and ".part" not in n]


def is_lost_worker(error: BaseException) -> bool:
    """Whether this is what TensorFlow raises where another worker has gone."""
    lost = tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError
    lost += tf.errors.InternalError, tf.errors.DeadlineExceededError
    words = "ollective", "heartbeat", "unhealthy", "failed to connect", "Socket closed"
    words += ("Connection reset", "barrier")
    return isinstance(error, lost) and any(word in str(error) for word in words)


def _digits(number):
    """A number below 2^48 as three of base 2^16, which float32 holds exactly."""
    return np.array([number >> 16 * i & 0xFFFF for i in range(3)], "float32")
