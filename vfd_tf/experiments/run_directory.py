"""A run directory: everything one run made, enough to resume, replay and cite it.

flags.txt         flags that repeat the run: --flagfile=<directory>/flags.txt
run.json          what the result depends on
history.csv       one row an epoch; metrics.jsonl: the same as JSON lines
best.keras        student of the epoch chosen on validation; last.keras: of the last
average.keras     the last epoch's averaged student, where weights are averaged
checkpoint-*.npz  weights, optimizer, step, metrics, history: what training goes on from
tensorboard/      events
verdicts.npz      which test images each student got right, under each attack
results.json      accuracies on the test split, versions, commit, seed, wall time
README.md         the model card, written anew each time
journal/          only during an evaluation: the windows of images it has finished
lock.json         only while a process has the directory: which, where, since when
"""

import contextlib
import copy
import csv
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable

import numpy as np

from vfd_tf import files
from vfd_tf.checkpoints import Checkpoints, State
from vfd_tf.evaluation import Journal, accuracies
from vfd_tf.experiments import sound
from vfd_tf.experiments.provenance import provenance
from vfd_tf.experiments.saver import Saver
from vfd_tf.hyperparameters import InputError

# What a damaged file is answered with.
REMEDIES = {
    "run.json": "restore it from a copy, or choose another --workdir",
    "results.json": "remove it, and the same command makes it again",
    "verdicts.npz": "remove it, and the same command evaluates again",
}
_OWN = {files.LOCK, "flags.txt"}  # what a directory that is claimed by nobody may hold
_VERDICT = re.compile(r"[^|]+\|[^|]+ n=(\d+)\|[^|]+")  # student, threat and images, column
_PROGRESS = ("best.keras", "last.keras", "average.keras", "history.csv", "metrics.jsonl")


class RunDirectory:
    """One run on disk. Files are replaced whole, so that a crash leaves the older one.

    Raises:
        InputError: A file that was damaged, naming it and what to do.
    """

    def __init__(self, path: str, label: str = "run"):
        self.path, self.label = path, label

    def owned(self, wait: bool = False):
        """Context in which no other process has the directory: `vfd_tf.files.owned`."""
        return files.owned(self.path, wait)

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def student(self, which: str) -> str:
        """Path of the "best", the "last" or the "average" student."""
        return self.file(f"{which}.keras")

    @property
    def students(self) -> tuple[str, ...]:
        """Which students there are: "best", "last", and "average" where there is one."""
        names = ("best", "last", "average")
        return tuple(name for name in names if os.path.exists(self.student(name)))

    @property
    def evaluated(self) -> tuple[str, ...]:
        """The students that have accuracies, and the mixtures."""
        return tuple(self.results.get("accuracies", {}))

    @property
    def key(self) -> str:
        """Name of the run's identity."""
        return key(self._json("run.json")["identity"])

    @property
    def results(self) -> dict:
        """What results.json says; {} without one."""
        results = self._json("results.json")
        if results.pop("checksum", None) not in (None, _checksum(results)):
            raise self._damaged("results.json", "its checksum is another")
        if not sound.are_results(results):
            raise self._damaged("results.json", "its accuracies or times are not valid")
        return results

    @property
    def complete(self) -> bool:
        return "wall_time_s" in self.results

    def check_owner(self, identity: dict, fields: dict[str, dict]) -> None:
        """Raises `InputError` if something else than this run has the directory."""
        owner = self.owner
        if not owner and self._is_others():
            raise InputError(
                f"{self.path} holds files but no run: move it away, or choose another "
                "--workdir."
            )
        other = differences(owner, identity, fields) if owner else []
        if other:
            raise InputError(
                f"{self.path} holds a run with {', '.join(other)}; choose another "
                "--workdir, or leave it out for a directory of its own."
            )

    def _is_others(self):
        """Whether there are files of which a run that has just begun leaves none."""
        names = os.listdir(self.path) if os.path.isdir(self.path) else []
        return any(name not in _OWN and files.PART not in name for name in names)

    @property
    def owner(self) -> dict:
        """What run.json says: "identity" and "fields" of the run; {} without one."""
        owner = self._json("run.json")
        for name in ("identity", "fields") if owner else ():
            if not isinstance(owner.get(name), dict):
                raise InputError(
                    f"{self.file('run.json')} has no {name!r}, which names the run: "
                    f"{REMEDIES['run.json']}."
                )
        if owner and not sound.is_owner(owner["identity"], owner["fields"]):
            raise self._damaged("run.json", "its fields are not valid")
        return owner

    def claim(self, identity: dict, fields: dict[str, dict], flags: str) -> None:
        """Writes down whose directory this is."""
        os.makedirs(self.path, exist_ok=True)
        owner = {"identity": identity, "fields": fields}
        self._write("run.json", json.dumps(owner, indent=2) + "\n")
        self._write("flags.txt", flags)

    def adopt(self, source: "RunDirectory") -> None:
        """Copies what another run has come to, to go on from there; its state last."""
        whole = source.checkpoints.whole_epoch()
        for name in (*_PROGRESS, os.path.basename(whole or "")):
            if name and os.path.exists(source.file(name)):
                with files.replaced(self.file(name)) as partial:
                    shutil.copyfile(source.file(name), partial)

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.path)

    def state(self) -> State:
        """How far the run has come; epoch 0 where nothing was saved."""
        return self.checkpoints.state()

    def saver(self, monitor: str, **when) -> Saver:
        """Callback that keeps this directory up to date; `monitor` chooses the best."""
        return Saver(self, monitor, **when)

    def write_history(self, history: list[dict]) -> None:
        """Writes both files of the history."""
        for name, text in _of_history(history).items():
            self._write(name, text)

    def mend(self, flags: str) -> None:
        """Writes the texts of a complete run again where they were damaged.

        Students and checkpoints that are damaged are named: nothing else knows what was in
        them.

        Args:
            flags: As in `claim`.
        """
        archives = [self.student(which) for which in self.students]
        for path in [*archives, *self.checkpoints.paths()]:
            if not files.is_whole(path):
                print(
                    f"Note: {path} is damaged: restore it from a copy, or remove the "
                    "directory, and the same command makes it again.",
                    flush=True,
                )
        texts = {"flags.txt": flags}
        with contextlib.suppress(InputError):  # a checkpoint that nobody needs any more
            texts |= _of_history(self.state().history)
        for name, text in texts.items():
            if not files.holds(self.file(name), text):
                self._write(name, text)

    def finish(self, epochs: int, seed: int, strategy) -> None:
        """Marks training as complete and records what made it.

        Raises:
            InputError: It ended before so many epochs.
        """
        state = self.state()
        if state.epoch < epochs:
            raise InputError(
                f"{self.path}: training ended after {state.epoch} of {epochs} epochs, and "
                "the run is not complete; the same command continues it."
            )
        self.checkpoints.keep_whole_epoch()
        self._merge(
            seed=seed,
            best_epoch=state.best_epoch,
            wall_time_s=round(state.seconds, 1),
            replicas=strategy.num_replicas_in_sync,
            **provenance(),
        )

    def accuracies(self, which: str, threat: str, count: str) -> dict[str, float]:
        """Percentages known for a student under a threat model on that many images."""
        known = self.results.get("accuracies", {})
        return known.get(which, {}).get(f"{threat} {count}", {})

    def keep_only(self, test_data: str) -> None:
        """Drops verdicts on other test images than those of this digest."""
        known = self.results.get("test_data")
        if known not in (None, test_data):
            self._merge(accuracies={})
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.file("verdicts.npz"))
        if known != test_data:
            self._merge(test_data=test_data)

    def keep_made_with(self, role: str, mark: str, needs: Callable) -> None:
        """Drops the verdicts that another network of a role has taken part in.

        Args:
            role: "surrogate" or "vanilla".
            mark: Hash of its file.
            needs: (student, column) -> whether such a verdict takes that network.
        """
        known = self.results.get(role)
        if known not in (None, mark):
            print(f"Note: {self.path}: verdicts with another {role} are dropped.")
            everything = {n: (n.split("|"), v) for n, v in self._verdicts().items()}
            kept = {
                name: verdict
                for name, ((which, _, column), verdict) in everything.items()
                if not needs(which, column)
            }
            self._write_verdicts(kept)
            self._merge(accuracies=_rows(kept))
        if known != mark:
            self._merge(**{role: mark})

    def verdicts(self, which: str, threat: str, count: str) -> dict[str, np.ndarray]:
        """Column -> bool [n] known for a student: which test images it got right."""
        prefix, everything = f"{which}|{threat} {count}|", self._verdicts()
        return {
            name[len(prefix) :]: right
            for name, right in everything.items()
            if name.startswith(prefix)
        }

    def _verdicts(self):
        path = self.file("verdicts.npz")
        found = files.read_arrays(path, REMEDIES["verdicts.npz"])
        for name, right in found.items():
            named = _VERDICT.fullmatch(name)
            if not named or right.dtype != bool or right.shape != (int(named[1]),):
                raise self._damaged("verdicts.npz", "its verdicts are of other images")
        return found

    def add_verdicts(self, which, threat, count, verdicts) -> None:
        """Adds columns of verdicts, and the accuracies they amount to.

        What an evaluation kept on the way, its journal, is removed.
        """
        everything = self._verdicts()
        new = {f"{which}|{threat} {count}|{name}": v for name, v in verdicts.items()}
        self._write_verdicts({**everything, **new})
        self.recount()
        self.remove_journal()

    def recount(self) -> None:
        """Makes the accuracies those of the verdicts.

        An earlier version may have written others, or a process that was killed none.
        """
        known = copy.deepcopy(self.results.get("accuracies", {}))
        for which, rows in _rows(self._verdicts()).items():
            for key_, row in rows.items():
                before = known.setdefault(which, {}).get(key_, {})
                before.pop("worst", None)  # it may be of attacks that count no more
                known[which][key_] = {**before, **row}
        if known != self.results.get("accuracies", {}):
            self._merge(accuracies=known)

    def fit(self, which: str, threat: str) -> dict:
        """The fitted numbers of a mixture, or the "reason" why none fit; {} if unknown."""
        return self.results.get("fits", {}).get(which, {}).get(threat, {})

    def add_fit(self, which: str, threat: str, fit: dict) -> None:
        """Keeps the numbers of a mixture, so that all its verdicts are of the same."""
        fits = self.results.get("fits", {})
        fits.setdefault(which, {})[threat] = fit
        self._merge(fits=fits)

    def _write_verdicts(self, verdicts):
        path = self.file("verdicts.npz")
        with files.replaced(path) as partial, open(partial, "wb") as file:
            np.savez_compressed(file, **verdicts)

    def remove_journal(self) -> None:
        """Removes what an evaluation kept on the way."""
        shutil.rmtree(self.file("journal"), ignore_errors=True)

    def journal(self, mark: str, plan: dict[str, str]) -> Journal:
        """What an evaluation goes on from, if this version began it.

        Args:
            mark: Hash of the student, or another text that tells it from others.
            plan: Column -> what it depends on.
        """
        known = provenance()
        owner = {name: known[name] for name in ("vfd_tf", "tensorflow", "keras", "numpy")}
        owner |= {"student": mark}
        try:
            return Journal(self.file("journal"), owner, plan)
        except InputError:
            shutil.rmtree(self.file("journal"))
            return Journal(self.file("journal"), owner, plan)

    def _merge(self, **entries) -> None:
        results = {**self.results, **entries}
        results["checksum"] = _checksum(results)
        self._write("results.json", json.dumps(results, indent=2) + "\n")

    def _damaged(self, name: str, reason: str) -> InputError:
        return InputError(f"{self.file(name)} is damaged ({reason}): {REMEDIES[name]}.")

    def _json(self, name: str) -> dict:
        return files.read_json(self.file(name), REMEDIES[name])

    def _write(self, name: str, text: str) -> None:
        with (
            files.replaced(self.file(name)) as partial,
            open(partial, "w", newline="") as file,
        ):
            file.write(text)


def _of_history(history):
    """Name -> text of the files of a history."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    table = io.StringIO()
    writer = csv.DictWriter(table, columns)
    writer.writeheader()
    writer.writerows(history)
    lines = "".join(json.dumps(row) + "\n" for row in history)
    return {"metrics.jsonl": lines, "history.csv": table.getvalue()}


def _rows(verdicts):
    """Student -> "<threat model> n=<images>" -> accuracies, of all verdicts of a run."""
    found = {}
    for name, verdict in verdicts.items():
        which, key_, column = name.split("|")
        found.setdefault(which, {}).setdefault(key_, {})[column] = verdict
    return {
        which: {key_: accuracies(its, key_.split(" ")[0]) for key_, its in rows.items()}
        for which, rows in found.items()
    }


def _checksum(results):
    text = json.dumps(results, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(owner: dict, identity: dict, fields: dict[str, dict]) -> list[str]:
    """What a run.json has otherwise than a run of this identity and these fields.

    Fields count where both know them, so that one added later doesn't.
    """
    theirs = owner["fields"]
    other = [
        f"{part}.{name.rstrip('_')} {theirs[part][name]} (now {value})"
        for part in fields.keys() & theirs.keys()
        for name, value in fields[part].items()
        if name in theirs[part] and theirs[part][name] != value
    ]
    known = owner["identity"]
    other += [
        f"{name} {known.get(name)} (now {identity.get(name)})"
        for name in {*known, *identity}
        if known.get(name) != identity.get(name)
    ]
    return sorted(other)


def key(identity: dict) -> str:
    """Eight hexadecimal digits that name an identity."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
