"""Commands that take no time, for engines: the words are their verbs.

python commands.py local FOLDER     a suite of three commands on one slot, to be stopped
python commands.py parsl FOLDER     another one by Parsl, with FOLDER/config.py
"""

import json
import os
import pathlib
import signal
import sys
import time


def main(argv):
    """Does what the words say, one after the other: its exit code."""
    for word in argv[1:]:
        verb, _, value = word.partition("=")
        code = VERBS[verb](value)
        if code is not None:
            return code
    return 0


def out(text):
    print(text)


def err(text):
    print(text, file=sys.stderr)


def raw(text):
    os.write(1, f"{text} 1\n".encode())
    os.write(2, f"{text} 2\n".encode())
    os.system(f"echo {text} 3")


def code(text):
    return int(text)


def leave(text):
    raise SystemExit(text)


def crash(text):
    raise ValueError(text)


def kill(text):
    os.kill(os.getpid(), int(text))
    time.sleep(60)


def end(text):
    os._exit(int(text))


def note(path):
    """Adds what can be known of this process, and when, to a file of JSON lines."""
    names = "CUDA_VISIBLE_DEVICES", "TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"
    known = {"pid": os.getpid(), "at": time.time(), "argv": sys.argv}
    known |= {name: os.environ.get(name) for name in names}
    known["imported"] = sorted(n for n in ("tensorflow", "vfd_tf") if n in sys.modules)
    with open(path, "a") as file:
        file.write(json.dumps(known) + "\n")


def touch(path):
    pathlib.Path(path).touch()


def until(path):
    """Waits for a file."""
    ends = time.monotonic() + 60
    while not os.path.exists(path) and time.monotonic() < ends:
        time.sleep(0.01)


def unless(path):
    """Fails the first time: a file tells that it has been here."""
    if not os.path.exists(path):
        touch(path)
        return 1


def save(path):
    """Waits for SIGTERM, saves, and exits as a training does."""

    def handle(number, frame):
        touch(path)
        raise SystemExit(75)

    before = signal.signal(signal.SIGTERM, handle)
    print("waits", flush=True)
    try:
        time.sleep(60)
    finally:
        signal.signal(signal.SIGTERM, before)


def memory(path):
    """Adds the resident memory of this process, in MiB, to a file."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    with open(path, "a") as file:
        file.write(f"{pages * os.sysconf('SC_PAGE_SIZE') / 2**20}\n")


OWN = out, err, raw, code, leave, crash, kill, end, note, touch, until, unless, save, memory
VERBS = {function.__name__: function for function in OWN}


def local_suite(folder):
    """Three commands, of which the first is stopped by a signal to this process."""
    from vfd_tf.signals import Signals
    from vfd_tf.suites.engines import Command, LocalEngine

    futures = {}
    try:
        with Signals(), LocalEngine([], run="commands:main") as engine:
            for name in ("first", "second", "child"):
                argv = (f"touch={folder}/{name}.began", f"save={folder}/{name}.saved")
                after = [futures["second"]] if name == "child" else []
                command = Command(name, argv, f"{folder}/{name}.txt")
                futures[name] = engine.submit(command, after)
            for future in futures.values():
                future.exception()
    finally:
        write_outcome(folder, futures, [])


def parsl_suite(folder):
    """Two workers; all ends but the last three commands, which a signal is to stop."""
    from vfd_tf.signals import Signals
    from vfd_tf.suites.engines import Command, ParslEngine

    futures, begun = {}, []

    def submit(name, *argv, after=()):
        command = Command(name, argv, f"{folder}/logs/{name}.txt")
        futures[name] = engine.submit(command, [futures[parent] for parent in after])

    config, options = f"{folder}/config.py", {"run": "commands:main"}
    try:
        with Signals(), ParslEngine(config, started=begun.append, **options) as engine:
            submit("left", "raw=raw", "touch=left", "until=right", "note=notes")
            submit("right", "out=out", "touch=right", "until=left", "note=notes")
            submit("bad", "err=error: bad input", "code=2", after=["left"])
            submit("child", after=["right", "bad"])
            submit("grandchild", after=["child"])
            submit("again", "out=tried", "unless=been", after=["left"])
            submit("killed", "kill=9", after=["again"])
            submit("good", after=["right", "again"])
            for future in list(futures.values()):
                future.exception()
            for name in ("first", "second", "third"):
                submit(name, f"save={name}.saved")
            for future in futures.values():
                future.exception()
    finally:
        write_outcome(folder, futures, begun)


def write_outcome(folder, futures, begun):
    errors = {name: future.exception(0) for name, future in futures.items()}
    known = {n: [type(e).__name__, *getattr(e, "args", ())] for n, e in errors.items()}
    text = json.dumps({"errors": known, "begun": begun})
    pathlib.Path(folder, "outcome.json").write_text(text)


if __name__ == "__main__":
    {"local": local_suite, "parsl": parsl_suite}[sys.argv[1]](sys.argv[2])
