"""Saves finished windows, so that an interrupted evaluation can resume."""

import hashlib
import json
import os

import numpy as np

from vfd_tf import files
from vfd_tf.evaluation.engine import Engine, Progress
from vfd_tf.evaluation.protocols import Protocol
from vfd_tf.evaluation.windows import Window
from vfd_tf.hyperparameters import InputError

_PROGRESS = "robust_so_far", "x_adv", "attempted"
_REMEDY = "remove its folder, or choose another --eval_dir"


def made(folder: str) -> str:
    """The folder of an evaluation, made if it isn't there.

    Raises:
        InputError: It can't be made, or is a file.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder} can't be made ({error.strerror}); choose another --eval_dir."
        ) from error
    return folder


class Journal:
    """What every window of every attack has come to, in a folder.

    Args:
        folder: Made where there is none.
        owner: What all of it depends on: the hash of the model's file, versions.
        plan: Column -> a text that its files depend on, beside what `evaluate` knows of
            it: attack, images, labels, seeds and `settings`.

    Raises:
        InputError: The folder holds evaluations of another model, or is no folder.
    """

    def __init__(self, folder: str, owner: dict, plan: dict[str, str] | None = None):
        self.folder, self.plan = folder, plan or {}
        made(folder)
        path = os.path.join(folder, "owner.json")
        if os.path.exists(path):
            known = files.read_json(path, _REMEDY)
            other = [
                f"{k} {_short(known.get(k))} (now {_short(value)})"
                for k, value in owner.items()
                if known.get(k) != value
            ]
            if other:
                raise InputError(
                    f"{folder} holds an evaluation with {', '.join(other)}; choose "
                    "another --eval_dir."
                )
        elif any(files.PART not in name for name in os.listdir(folder)):
            raise InputError(
                f"{folder} holds files but no evaluation; choose another --eval_dir."
            )
        else:
            with files.replaced(path) as partial, open(partial, "w") as file:
                json.dump(owner, file, indent=2)

    def _path(self, name, number, window, settings):
        """The file of an attack on a window: of these images, labels and seeds."""
        text = f"{name} {self.plan.get(name, '')} {settings}"
        sha = hashlib.sha256(text.encode())
        for array in (window.x, window.y, window.seeds):
            sha.update(np.ascontiguousarray(array).tobytes())
        return os.path.join(self.folder, f"{sha.hexdigest()[:16]}-{number}.npz")

    def read(
        self, name: str, number: int, window: Window, settings: str = ""
    ) -> tuple | None:
        """(`Progress`, sizes, seconds) of an attack on the window number, or None."""
        path = self._path(name, number, window, settings)
        if not os.path.exists(path):
            return None
        try:
            known = files.read_arrays(path, "remove it")
            return _saved(known, window)
        except files.DAMAGED:
            print(f"Note: {path} is damaged; {name} begins anew on these images.")
            return None

    def write(
        self,
        name: str,
        number: int,
        window: Window,
        progress: Progress,
        seconds: float,
        sizes: np.ndarray | None = None,
        settings: str = "",
    ) -> None:
        """Keeps how far an attack on a window has come; `sizes` when it is done."""
        path = self._path(name, number, window, settings)
        arrays = {"runs_done": progress.runs_done, "seconds": seconds}
        arrays |= {f"after/{stage}": value for stage, value in progress.after.items()}
        fields = {name: vars(progress)[name] for name in (*_PROGRESS, "margins")}
        fields["sizes"] = sizes
        arrays |= {name: value for name, value in fields.items() if value is not None}
        with files.replaced(path) as partial, open(partial, "wb") as file:
            np.savez(file, **arrays)


def settings(protocol: Protocol, engine: Engine) -> str:
    """What a column depends on beside networks, images, labels and seeds."""
    model, attack = engine.model, protocol.attack
    parts = [protocol.describe(), f"passes={attack.passes}", f"bounds={model.bounds}"]
    parts += [f"craft={model.craft}", f"early_stop={engine.early_stop}"]
    return " ".join(parts)


def digest(logits: np.ndarray) -> str:
    """What tells networks without a file apart: the hash of their logits on images."""
    return hashlib.sha256(np.ascontiguousarray(logits).tobytes()).hexdigest()


def _saved(known, window):
    """(`Progress`, sizes, seconds) of the arrays of a file, those of a window.

    Raises:
        KeyError, ValueError: They are not.
    """
    after = {k.removeprefix("after/"): v for k, v in known.items() if "after/" in k}
    progress = Progress(
        *(known.get(name) for name in _PROGRESS),
        int(known["runs_done"]),
        after,
        margins=known.get("margins"),
    )
    sizes, masks = known.get("sizes"), [known["robust_so_far"], *after.values()]
    masks += [] if progress.attempted is None else [progress.attempted]
    alike = all(mask.shape == (len(window),) and mask.dtype == bool for mask in masks)
    if progress.x_adv is not None:
        alike &= progress.x_adv.shape == np.shape(window.x)
        alike &= progress.x_adv.dtype == window.x.dtype
    if progress.margins is not None:
        alike &= progress.margins.shape == (len(window),)
        alike &= progress.margins.dtype.kind == "f"
    if sizes is not None:
        alike &= sizes.ndim == 1 and sizes.dtype.kind == "f" and bool(after)
    if not alike or sizes is None and progress.x_adv is None:
        raise ValueError("arrays of other images")
    return progress, sizes, float(known["seconds"])


def _short(value):
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
