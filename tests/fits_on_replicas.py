"""A fit on two replicas, unbroken and killed in an epoch: what both end with.

    python tests/fits_on_replicas.py FOLDER

In a process of its own, see `replicas.py`.
"""

import pathlib
import sys

import vfd_tf  # noqa: F401, before TensorFlow

# isort: split
import fits
import numpy as np
import replicas

folder = pathlib.Path(sys.argv[1])
strategy = replicas.strategy_of(0, ["0"], 2)
assert strategy.num_replicas_in_sync == 2


def make(**options):
    with strategy.scope():
        return fits.natural(average="ema", **{"ema_decay": 0.9, **options})


def save(name, ended):
    arrays, epochs, history = ended
    found = {f"v{i}": array for i, array in enumerate(arrays)}
    np.savez(folder / name, **found, **history, epochs=epochs)


save("unbroken", fits.unbroken(make))
fits.killed(make, folder / "checkpoints", "before", 0, 2)
fits.killed(make, folder / "checkpoints", "test", 0)
fits.killed(make, folder / "checkpoints", "before", 1, 1)
save("resumed", fits.resumed(make, folder / "checkpoints"))

# Replicas that see other statistics of their images: the average is of all of these.
apart = make(sync_batch_norm=False, ema_decay=0.0)
fits.fit(apart, None, epochs=1)
last, average = apart.average.source, apart.average.values
pairs = {"last": last, "average": average}
arrays = {n: np.concatenate([np.ravel(v.numpy()) for v in vs]) for n, vs in pairs.items()}
np.savez(folder / "apart.npz", **arrays)
