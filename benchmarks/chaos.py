"""Kills a real training again and again, and compares what it ends with.

    python -m benchmarks.chaos --kills=200
    python -m benchmarks.chaos --faults=50

A run of the command line trains a vanilla teacher, then HAT + VFD with EMA, and evaluates
both. It is killed (SIGKILL, SIGTERM, SIGINT) at random moments and while files are written,
and started again by the same command, until it is complete; then the next one begins. All
end in the weights, optimizer, averages, history, curves and verdicts of an undisturbed run,
or the last line says no. With --faults, files are cut short, bits are turned, and the disk
is full (a limit of the size of files) between the starts instead.
"""

import argparse
import contextlib
import glob
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import vfd_tf  # noqa: F401, before TensorFlow

# isort: split
import keras
import numpy as np
from tensorboard.backend.event_processing import event_file_loader

from benchmarks import machine

SIGNALS = [signal.SIGKILL] * 6 + [signal.SIGTERM] * 3 + [signal.SIGINT]
STAGES = "half", "whole", "named", "curves"
WITHOUT = {"wall_time_s", "checksum"}  # of results.json, and what depends on it
CLOCK = "images_per_second"  # a curve
STOPPED = 75
FLAGS = (
    *("--method=hat", "--distill=vfd", "--average=ema", "--epochs=3", "--batch_size=128"),
    *("--validation=200", "--pgd_steps=2", "--epsilon=0.1", "--learning_rate=0.3"),
    *("--schedule=constant", "--checkpoint_steps=2", "--panel_every=2"),
    *("--eval_attacks=fgsm,pgd5", "--max_images=100"),
)


def build_inputs(folder):
    """A network with BatchNorm and Dropout that is traced fast, and the flags of a run."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False)(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="features")(x)
    x = keras.layers.Dropout(0.2)(keras.layers.GlobalAveragePooling2D()(x))
    path = os.path.join(folder, "network.keras")
    keras.Model(inputs, keras.layers.Dense(10)(x)).save(path)
    return ["--dataset=digits", f"--arch={path}", *FLAGS]


class Server:
    """Runs the command line in forks of a process that has TensorFlow loaded."""

    def __init__(self, folder):
        self.folder, self.steps_file = folder, os.path.join(folder, "steps")
        pathlib.Path(self.steps_file).write_bytes(bytes(8))
        self.log = os.path.join(folder, "log.txt")
        command = [sys.executable, "-m", "benchmarks.chaos_worker"]
        pipe = subprocess.PIPE
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=quiet)

    def run(self, words, kill=None) -> tuple[int, float]:
        """(exit code, seconds) of a run; a signal's is negative."""
        job = {"words": words, "log": self.log, "steps": self.steps_file, "kill": kill}
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["code"], answer["seconds"]

    @property
    def steps(self) -> int:
        """Training steps that were run, by all."""
        return int.from_bytes(pathlib.Path(self.steps_file).read_bytes(), "little")


def plan(dice, seconds, writes):
    """When to kill the next start: while a file is written, or at any time."""
    own = {"signal": int(dice.choice(SIGNALS))}
    if dice.random() < 0.5:
        return own | {"after": dice.uniform(0, seconds)}
    return own | {"write": dice.randint(1, writes), "at": dice.choice(STAGES)}


def contents(root) -> dict:
    """Everything that runs end with: (run, what) -> value."""
    found = {}
    for path in sorted(pathlib.Path(root).iterdir()):
        name = path.name.rsplit("-", 1)[0]
        found[name, "files"] = sorted(p.name for p in path.iterdir())
        for file in path.glob("*.npz"):
            found |= {(name, file.name, n): v for n, v in _arrays(file)}
        for file in path.glob("*.keras"):
            weights = keras.saving.load_model(file, compile=False).get_weights()
            found |= {(name, file.name, i): w for i, w in enumerate(weights)}
        for file in ("history.csv", "metrics.jsonl", "run.json", "flags.txt"):
            found[name, file] = (path / file).read_text()
        results = json.loads((path / "results.json").read_text())
        found[name, "results.json"] = {k: results[k] for k in results.keys() - WITHOUT}
        found[name, "curves"] = curves(path / "tensorboard")
    return found


def _arrays(file):
    with np.load(file) as saved:
        for name in saved.files:
            if name == "manifest":
                state = json.loads(str(saved[name]))["state"]
                yield name, {k: v for k, v in state.items() if k != "seconds"}
            else:
                yield name, saved[name]


def curves(folder) -> list:
    """(part, tag, step, value) of every curve, but for the clock's."""
    found = []
    for path in glob.glob(f"{folder}/**/*tfevents*", recursive=True):
        part = os.path.relpath(os.path.dirname(path), folder)
        for event in event_file_loader.LegacyEventFileLoader(path).Load():
            for value in event.summary.value:
                plain = value.metadata.plugin_data.plugin_name != "hparams"
                if plain and CLOCK not in value.tag:
                    entry = part, value.tag, event.step, value.tensor.SerializeToString()
                    found.append(entry)
    # What a test split gave is written before it is known to be kept.
    return sorted(set(found)) if found else []


def differences(one, other) -> list:
    """What two runs don't have alike."""
    different = sorted(map(str, one.keys() ^ other.keys()))
    for key in one.keys() & other.keys():
        a, b = one[key], other[key]
        same = np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        if not same:
            different.append(str(key))
    return different


def kills(options, folder, server, words, expected, undisturbed):
    """Kills runs; (kills, resumes, steps lost, differences)."""
    dice, killed, resumed, found, whole = random.Random(options.seed), 0, 0, [], 0
    before, seconds, writes = server.steps, 8.0, 60
    while killed < options.kills:
        root = os.path.join(folder, f"run{whole}")
        again = False
        while True:
            kill = plan(dice, seconds, writes) if killed < options.kills else None
            code, _ = server.run([*words, f"--runs={root}"], kill)
            resumed += again
            again = True
            if code == 0:
                break
            killed += 1
            if code not in (STOPPED, 1, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT):
                found.append(f"exit code {code} after {kill}")
                break
            print(f"kill {killed}: {kill}, exit code {code}", flush=True)
        different = differences(expected, contents(root)) if code == 0 else []
        found += [f"run {whole}: {each}" for each in different]
        whole += 1
        print(f"run {whole} is complete, {len(different)} differences", flush=True)
        if not different and code == 0:
            shutil.rmtree(root)
    return killed, resumed, server.steps - before - whole * undisturbed, found


def faults(options, folder, server, words, expected):
    """Damages files of stopped runs; (faults, differences)."""
    dice, found, done = random.Random(options.seed), [], 0
    while done < options.faults:
        root = os.path.join(folder, f"faulty{done}")
        mine = [*words, f"--runs={root}"]
        server.run(mine, {"signal": int(signal.SIGKILL), "after": dice.uniform(0, 6)})
        fault = dice.choice(FAULTS)
        named, path, different = fault(dice, root, server, mine)
        done += 1
        code, _ = server.run(mine)
        if f"Note: {path} is damaged" in pathlib.Path(server.log).read_text():
            named += ", named"
            shutil.rmtree(path.parent)  # as it says
            code, _ = server.run(mine)
        elif code == 2:  # refused in a sentence: what it names is removed, as it says
            named += f", refused: {_last_error(server.log)}"
            _remove_named(root, _last_error(server.log))
            code, _ = server.run(mine)
        different += [f"exit code {code}"] if code else []
        if code == 0:
            different += differences(expected, contents(root))
        print(f"fault {done}: {named}; {len(different)} differences", flush=True)
        found += [f"fault {done}, {named}: {each}" for each in different]
        if not different:
            shutil.rmtree(root)
    return done, found


def _cut(dice, root, *_):
    path = _any_file(dice, root)
    if path:
        os.truncate(path, dice.randrange(os.path.getsize(path)))
    return f"cut short: {path}", path, []


def _turned(dice, root, *_):
    path = _any_file(dice, root)
    if path:
        data = bytearray(path.read_bytes())
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
    return f"a bit turned: {path}", path, []


def _full(dice, root, server, mine):
    code, _ = server.run(mine, {"limit": dice.choice(LIMITS)})
    wrong = [] if code in (0, 2) else [f"exit code {code} on a full disk"]
    return f"disk full, exit code {code}", None, wrong


LIMITS = 2_000, 10_000, 20_000, 40_000
FAULTS = _cut, _turned, _full


def _any_file(dice, root):
    """A file that training or evaluation has written, of some size."""
    found = sorted(p for p in pathlib.Path(root).rglob("*") if p.is_file())
    found = [p for p in found if p.stat().st_size and "tfevents" not in p.name]
    return dice.choice(found) if found else None


def _last_error(log):
    lines = pathlib.Path(log).read_text(errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.startswith("error: ")), "")


def _remove_named(root, sentence):
    """Does what a refusal asks for: removes the files, or the directory, that it names."""
    for path in sorted(pathlib.Path(root).rglob("*"), reverse=True):
        if str(path) in sentence and path.is_file():
            path.unlink()
            if path.name == "run.json":
                shutil.rmtree(path.parent)
            return


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--faults", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where to work; default: a temporary one")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    with contextlib.ExitStack() as stack:
        folder = options.folder or stack.enter_context(tempfile.TemporaryDirectory())
        os.makedirs(folder, exist_ok=True)
        words, server = build_inputs(folder), Server(folder)
        root, started = os.path.join(folder, "undisturbed"), time.perf_counter()
        code, seconds = server.run([*words, f"--runs={root}"])
        if code:
            raise SystemExit(f"The undisturbed run ended with {code}: see {server.log}.")
        expected, steps = contents(root), server.steps
        line = machine.command("chaos", sys.argv[1:] if arguments is None else arguments)
        print(machine.header(line, machine.tensorflow_facts()))
        print(f"- undisturbed run: {steps} steps, {seconds:.0f} s", flush=True)
        different = []
        if options.kills:
            killed, resumed, lost, found = kills(
                options, folder, server, words, expected, steps
            )
            different += found
        if options.faults:
            damaged, found = faults(options, folder, server, words, expected)
            different += found
        for line in different[:50]:
            print(f"different: {line}")
        print(f"- all of it: {(time.perf_counter() - started) / 60:.1f} min")
        same = "no" if different else "yes"
        if options.faults:
            print(f"chaos: {damaged} faults, identical: {same}")
        if options.kills:
            print(
                f"chaos: {killed} kills, {resumed} resumes, {lost} steps lost, "
                f"identical: {same}"
            )
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())
