"""How far a suite has come: what runs, what waits, what failed, and the time left."""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterable, Mapping

import psutil

from vfd_tf import files
from vfd_tf.hyperparameters import InputError
from vfd_tf.progress import duration
from vfd_tf.suites.command import Command, CommandStopped, ParentFailed

STATUS = "status.json"
_DRAWINGS = 2  # a second
_ENDED = "done", "failed", "stopped"


def read_status(folder: str) -> dict[str, dict]:
    """What `status.json` of a suite's folder says of its commands; {} without one.

    What runs in a suite of this machine whose process is gone is stopped.
    """
    path = os.path.join(folder, STATUS)
    known = files.read_json(path, "remove it; a suite writes it anew")
    return {name: _seen(entry) for name, entry in known.items()}


def _seen(entry):
    """An entry as it is now; SIGKILL leaves nobody to write it down."""
    if not isinstance(entry, dict) or entry.get("status") != "running":
        return entry
    pid, here = entry.get("pid"), entry.get("host") == socket.gethostname()
    if not here or type(pid) is not int or psutil.pid_exists(pid):
        return entry
    reason = "the process of its suite is gone; the same command continues it"
    return {**entry, "status": "stopped", "reason": reason}


def _ended(folder, names):
    """The entries of commands of other names, such as rows that don't run this time."""
    try:
        known = read_status(folder)
    except InputError:  # damaged, and written anew
        return {}
    return {
        name: entry
        for name, entry in known.items()
        if name not in names and isinstance(entry, dict) and entry.get("status") in _ENDED
    }


class Overview:
    """Tells how far the commands of a suite have come, and keeps it in `status.json`.

    On a terminal it is a table of what runs, which is drawn over again, with a line for
    every failure above it; elsewhere a line for every event. A context, as the table ends
    with it. Its methods may be called in any thread.

    Args:
        commands: All commands of the suite, of different names.
        predicted: Name -> seconds, of the commands that have a prediction. One that is
            known to be complete should have 0: it says nothing of the pace.
        output: Folder of `status.json`, which is made.
        slots: How many commands run at once.
        stream: Default: standard output.
    """

    def __init__(
        self,
        commands: Iterable[Command],
        predicted: Mapping[str, float],
        output: str,
        slots: int | None = 1,
        stream=None,
    ):
        self.slots, self.predicted = slots or 1, dict(predicted)
        self._status = {
            command.name: {
                "status": "waiting",
                "seconds": None,
                "reason": None,
                "log": command.log,
            }
            for command in commands
        }
        self._began = {}  # name -> time, of what runs
        self._others = _ended(output, self._status)
        self._path, self._lock = os.path.join(output, STATUS), threading.RLock()
        os.makedirs(output, exist_ok=True)
        self._live, self._stream = None, sys.stdout if stream is None else stream
        self._write()

    def started(self, name: str) -> None:
        """A command begins, or begins again."""
        with self._lock:
            self._began[name] = time.monotonic()
            self._change(name, "running", f"began: {name}")

    def ended(self, name: str, seconds: float) -> None:
        """A command is done."""
        self._settle(name, "done", seconds, None, f"done: {name} ({duration(seconds)})")

    def failed(self, name: str, error: BaseException) -> None:
        """A command failed, didn't run because of another one, or was stopped."""
        seconds = time.monotonic() - self._began[name] if name in self._began else None
        if isinstance(error, CommandStopped):
            self._settle(name, "stopped", seconds, None, f"stopped: {name}")
        elif isinstance(error, ParentFailed):
            reason = f"{error.parent} had failed"
            self._settle(name, "failed", None, reason, f"not run: {name}, {reason}")
        else:
            reason = getattr(error, "reason", None) or f"{type(error).__name__}: {error}"
            log = f", see {self._status[name]['log']}"
            self._settle(name, "failed", seconds, reason, f"failed: {name}: {reason}{log}")

    def follow(self, name: str, future) -> None:
        """Notes the end of a command that an engine runs, when it comes."""

        def settled(future):
            if future.cancelled() or future.exception():
                error = CommandStopped(name) if future.cancelled() else future.exception()
                self.failed(name, error)
            else:
                self.ended(name, future.result())

        future.add_done_callback(settled)

    def counts(self) -> dict[str, int]:
        """How many commands are waiting, running, done, failed, stopped."""
        with self._lock:
            found = [entry["status"] for entry in self._status.values()]
        names = "running", "waiting", "done", "failed", "stopped"
        return {name: found.count(name) for name in names}

    def left(self) -> float | None:
        """Seconds until all is done, by the pace so far; None without predictions."""
        with self._lock:
            pace, now, times = self._pace(), time.monotonic(), []
            typical = self._typical()
            for name, entry in self._status.items():
                if entry["status"] in ("running", "waiting"):
                    known = self.predicted.get(name, typical)
                    if known is None:
                        return None
                    spent = now - self._began.get(name, now)
                    times.append(max(0.0, pace * known - spent))
        # No sooner than the longest, however many run at once.
        return max(sum(times) / self.slots, *times, 0.0) if times else 0.0

    def _pace(self):
        """Seconds that a predicted second took, in what is done."""
        both = [
            (entry["seconds"], self.predicted[name])
            for name, entry in self._status.items()
            if entry["status"] == "done" and self.predicted.get(name)
        ]
        return sum(taken for taken, _ in both) / sum(p for _, p in both) if both else 1.0

    def _typical(self):
        """The mean prediction, for commands that have none."""
        known = [seconds for seconds in self.predicted.values() if seconds]
        return sum(known) / len(known) if known else None

    def _settle(self, name, status, seconds, reason, line):
        with self._lock:
            self._began.pop(name, None)
            self._status[name] |= {"seconds": seconds, "reason": reason}
            self._change(name, status, line)

    def _change(self, name, status, line):
        self._status[name]["status"] = status
        with contextlib.suppress(OSError):  # a full disk, or a terminal that is gone
            self._write()
        with contextlib.suppress(OSError):
            self._say(status, line)

    def _say(self, status, line):
        if self._live is None:
            settled = sum(self.counts()[key] for key in ("done", "failed", "stopped"))
            text = f"[{settled}/{len(self._status)}] {line}; {self.summary()}\n"
            self._stream.write(text)
            self._stream.flush()
        elif status == "failed":
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def summary(self) -> str:
        """Counts and the time left: 2 running, 22 waiting, about 1.7 h left."""
        counts, left = self.counts(), self.left()
        shown = "running", "waiting", "failed", "stopped"
        parts = [f"{counts[key]} {key}" for key in shown if counts[key]]
        if left is not None and counts["running"] + counts["waiting"]:
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts) or "nothing left"

    def _write(self):
        owner = {"host": socket.gethostname(), "pid": os.getpid()}
        now = {
            name: entry | owner if entry["status"] == "running" else entry
            for name, entry in self._status.items()
        }
        with files.replaced(self._path) as part, open(part, "w") as file:
            json.dump(self._others | now, file, indent=1)

    def __enter__(self):
        if getattr(self._stream, "isatty", lambda: False)():
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self._stream)
            if not console.is_dumb_terminal:
                options = {"console": console, "refresh_per_second": _DRAWINGS}
                self._live = Live(get_renderable=self._table, **options)
                self._live.start()
        return self

    def __exit__(self, kind, error, traceback):
        if self._live is not None:
            with contextlib.suppress(OSError):  # a terminal that is gone
                self._live.stop()
            self._live = None

    def _table(self):
        """What runs, in rows; counts and the time left below."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        counts = self.counts()
        caption = f"{counts['done']} of {len(self._status)} done; {self.summary()}"
        table = Table(box=None)
        table.add_column("running")
        table.add_column("for", justify="right")
        table.add_column("expected", justify="right")
        with self._lock:
            pace, now, began = self._pace(), time.monotonic(), dict(self._began)
        for name, since in began.items():
            known = self.predicted.get(name)
            expected = duration(pace * known) if known is not None else ""
            table.add_row(Text(name), duration(now - since), expected)
        return Group(table, Text(caption))
