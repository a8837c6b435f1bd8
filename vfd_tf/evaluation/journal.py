"""A journal of an evaluation on disk, from which a killed one goes on."""

import hashlib
import json
import os

import numpy as np

from vfd_tf.evaluation.target import Progress
from vfd_tf.part import InputError


class Journal:
    """What every window of every attack has come to, in a folder.

    Args:
        folder: Made where there is none.
        owner: What all of it depends on, attacks aside: model, data, seed, ...
        plan: Attack -> its description: part of what an attack's file depends on.

    Raises:
        InputError: The folder holds the evaluation of another model, or other data.
    """

    def __init__(self, folder: str, owner: dict, plan: dict[str, str]):
        self.folder, self.plan = folder, plan
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, "owner.json")
        if os.path.exists(path):
            known = _read(path)
            other = [
                f"{k} {known.get(k)} (now {owner.get(k)})"
                for k in {**known, **owner}
                if known.get(k) != owner.get(k)
            ]
            if other:
                raise InputError(
                    f"{folder} holds an evaluation with {', '.join(other)}; choose "
                    "another --eval_dir."
                )
        elif set(os.listdir(folder)) - {"owner.json.part"}:
            raise InputError(
                f"{folder} holds files but no evaluation; choose another --eval_dir."
            )
        else:
            with open(path + ".part", "w") as file:
                json.dump(owner, file, indent=2)
            os.replace(path + ".part", path)

    def _path(self, name, number, window):
        """The file of an attack on a window: of these images, labels and seeds."""
        sha = hashlib.sha256(f"{name} {self.plan[name]}".encode())
        for array in (window.x, window.y, window.seeds):
            sha.update(np.ascontiguousarray(array).tobytes())
        return os.path.join(self.folder, f"{sha.hexdigest()[:16]}-{number}.npz")

    def read(self, name, number, window):
        """(`Progress`, sizes, seconds) of an attack on the window number, or None."""
        path = self._path(name, number, window)
        if not os.path.exists(path):
            return None
        with np.load(path) as saved:
            known = dict(saved)
        after = {k.removeprefix("after/"): v for k, v in known.items() if "after/" in k}
        parts = (known.get(part) for part in ("open", "x_adv", "tried"))
        progress = Progress(*parts, int(known["runs"]), after)
        return progress, known.get("sizes"), float(known["seconds"])

    def write(self, name, number, window, progress, seconds, sizes=None) -> None:
        """Keeps how far an attack on a window has come; `sizes` when it is done."""
        path = self._path(name, number, window)
        arrays = {"runs": progress.runs, "seconds": seconds}
        arrays |= {f"after/{stage}": value for stage, value in progress.after.items()}
        parts = {part: vars(progress)[part] for part in ("open", "x_adv", "tried")}
        parts["sizes"] = sizes
        arrays |= {k: v for k, v in parts.items() if v is not None}
        with open(path + ".part", "wb") as file:
            np.savez(file, **arrays)
        os.replace(path + ".part", path)


def _read(path):
    with open(path) as file:
        try:
            return json.load(file)
        except json.JSONDecodeError:
            raise InputError(
                f"{path} is damaged; remove its folder, or choose another --eval_dir."
            ) from None
