"""Runs commands on the devices of this machine, one at a time on each."""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from vfd_tf import signals
from vfd_tf.hyperparameters import InputError
from vfd_tf.suites.command import (
    RUN,
    Command,
    CommandFailed,
    CommandStopped,
    death,
    last_words,
    passed_on,
)

_WORKER = str(pathlib.Path(__file__).with_name("worker.py"))
_THREADS = "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"
_PATIENCE = 60  # seconds for an idle process to end
_COMMANDS = 10  # of a process: TensorFlow keeps some megabytes of every training


def visible_gpus() -> list[str]:
    """GPUs as CUDA_VISIBLE_DEVICES names them; TensorFlow is not asked.

    That variable decides, as for CUDA itself; without it, all that `nvidia-smi` lists.
    The parts of a GPU that is divided (MIG) count as devices of their own.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        names = [name.strip() for name in named.split(",")]
        valid = [re.fullmatch(r"\d+|(GPU|MIG)-.+", name) is not None for name in names]
        return names[: valid.index(False)] if False in valid else names
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return _listed(listed.stdout) if listed.returncode == 0 else []


def _listed(text):
    """The devices in what `nvidia-smi -L` prints."""
    gpus, parts = [], {}
    for line in text.splitlines():
        if found := re.match(r"GPU (\d+):", line):
            gpus.append(found[1])
        elif found := re.match(r"\s+MIG .*UUID: (MIG-[^)]+)\)", line):
            parts.setdefault(gpus[-1], []).append(found[1])
    return [name for gpu in gpus for name in parts.get(gpu, [gpu])]


def _environments(devices, workers):
    """The environment variables of every slot."""
    if workers is not None and workers < 1:
        raise InputError(f"--workers={workers} runs nothing: choose 1 or more.")
    if devices and workers is not None:
        raise InputError(
            "--workers counts slots of a CPU, and there are GPUs, with one each: leave it "
            "out, or hide the GPUs with CUDA_VISIBLE_DEVICES=-1."
        )
    if devices:
        return [{"CUDA_VISIBLE_DEVICES": device} for device in devices]
    slots, limits = workers or 1, {}
    if slots > 1:
        share = str(max(1, _cores() // slots))
        limits = {name: os.environ.get(name, share) for name in _THREADS}
    return [{"CUDA_VISIBLE_DEVICES": "-1", **limits} for _ in range(slots)]


def _cores():
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Worker:
    """A process that runs one command after another, and is replaced when it dies.

    It begins with its first command, in a session of its own, so that Ctrl-C in the
    terminal is left to the suite. After some commands another one takes its place.
    """

    def __init__(self, environment: dict[str, str], run: str):
        self.environment, self.function = environment, run
        self._process, self._busy, self._stopped = None, False, False
        self._count = 0  # commands of this process
        self._lock = threading.Lock()

    def run(self, command: Command) -> tuple[int, bool]:
        """(exit code, whether the process died); waits for the command's end."""
        if self._count >= _COMMANDS:
            self.close()
        for _ in range(2):  # an idle process may have died since its last command
            with self._lock:
                if self._stopped:
                    return signals.EXIT_CODE, False
                process = self._process = self._process or self._start(command.log)
                self._busy = True
            begun = self._send(process, command)
            reply = process.stdout.readline() if begun else ""
            with self._lock:
                self._busy = False
                self._process = process if reply else None
            if reply:
                self._count += 1
                return int(reply), False
            process.stdout.close()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            code = process.wait()
            if begun:
                break
        return code, True

    def _send(self, process, command):
        """Whether the process has begun with the command."""
        words, log = list(command.argv), os.path.abspath(command.log)
        request = {"run": self.function, "words": words, "log": log, "path": sys.path}
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        return bool(process.stdout.readline())

    def _start(self, log):
        self._count = 0
        with open(log, "ab") as errors:  # of Python, should it not even start
            return subprocess.Popen(
                [sys.executable, "-P", _WORKER],
                env=os.environ | self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Sends SIGTERM to the command that runs; no other begins."""
        with self._lock:
            self._stopped = True
            if self._busy:
                self._process.terminate()

    def close(self) -> None:
        """Ends the process, which is idle."""
        if self._process is None:
            return
        try:
            self._process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._process = None


@dataclasses.dataclass(eq=False)
class _Job:
    command: Command
    after: list
    future: concurrent.futures.Future


class LocalEngine:
    """Runs commands on this machine: one at a time on every GPU, or on slots of the CPU.

    Commands that are ready run in the order in which they were submitted; no device waits
    while one is ready. Every device has a process of its own that runs its commands one
    after another, so that TensorFlow is imported once.

    As a context it waits for all commands at its end. If the block ends by an exception,
    as `signals.Signals` raises it for SIGTERM and Ctrl-C, it stops first. A suite that is
    killed takes its commands along: they get SIGTERM, and save.

    Args:
        devices: Names of GPUs; [] for the CPU. Default: `visible_gpus()`.
        workers: Commands at once on a CPU, which share its cores. Default: 1.
        retries: How often a command runs again that ended by an error that nobody
            expected (exit code 1), or whose process died.
        started: Is called with the name of a command whenever it begins, in any thread.
        run: Dotted name of what takes the words of a command, in the process of a device.

    Attributes:
        slots: How many commands run at once.
    """

    def __init__(
        self,
        devices: Sequence[str] | None = None,
        workers: int | None = None,
        retries: int = 0,
        started: Callable[[str], None] | None = None,
        run: str = RUN,
    ):
        devices = visible_gpus() if devices is None else devices
        self._workers = [Worker(each, run) for each in _environments(devices, workers)]
        self.slots, self._retries = len(self._workers), retries
        self._started = started or (lambda name: None)
        self._changed = threading.Condition()
        self._waiting: list[_Job] = []
        self._settled: dict[concurrent.futures.Future, bool] = {}  # of all futures
        self._errors = {}  # future -> exception, in the order in which they came
        self._stopping = self._closing = False
        self._threads = [
            threading.Thread(target=self._serve, args=(worker,), daemon=True)
            for worker in self._workers
        ]
        for thread in self._threads:
            thread.start()

    @classmethod
    def of(cls, flags, started: Callable[[str], None]) -> "LocalEngine":
        """The engine of --workers and --retries."""
        return cls(workers=flags.workers, retries=flags.retries, started=started)

    def submit(
        self, command: Command, after: Iterable[concurrent.futures.Future] = ()
    ) -> concurrent.futures.Future:
        """Runs a command as soon as there is a device and all of `after` are done.

        Returns:
            The seconds it takes; or `CommandFailed`, `ParentFailed` or `CommandStopped`.
        """
        job = _Job(command, list(after), concurrent.futures.Future())
        with self._changed:
            if self._closing:
                raise RuntimeError("The engine is closed.")
            if not all(parent in self._settled for parent in job.after):
                raise ValueError("`after` takes what `submit` of this engine gave.")
            self._waiting.append(job)
            self._settled[job.future] = False
            lost = self._lost()
            self._changed.notify_all()
        _tell(lost)
        return job.future

    def stop(self) -> None:
        """Asks the commands that run to save and end; the others don't begin."""
        with self._changed:
            self._stopping = True
            lost = self._lost()
            self._changed.notify_all()
        for worker in self._workers:
            worker.stop()
        _tell(lost)

    def close(self) -> None:
        """Waits for all commands, and ends the processes."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if error is not None:
            self.stop()
        self.close()

    def _serve(self, worker):
        """Runs what is ready on one device, until there is nothing more to come."""
        while job := self._next():
            try:
                seconds, error = self._run(worker, job.command), None
            except (CommandFailed, CommandStopped) as raised:
                seconds, error = None, raised
            except Exception as raised:  # of its log's folder, or of `started`
                reason = f"{type(raised).__name__}: {raised}"
                name, log = job.command.name, job.command.log
                seconds, error = None, CommandFailed(name, None, reason, log)
            with self._changed:
                self._note(job, error)
                lost = self._lost()
                self._changed.notify_all()
            if error:
                job.future.set_exception(error)
            else:
                job.future.set_result(seconds)
            _tell(lost)
        worker.close()

    def _note(self, job, error):
        self._settled[job.future] = True
        if error:
            self._errors[job.future] = error

    def _next(self):
        """The first command that is ready; None when no more come."""
        with self._changed:
            while True:
                if job := self._first_ready():
                    if job.future.set_running_or_notify_cancel():
                        return job
                    self._note(job, CommandStopped(job.command.name))
                    _tell(self._lost())
                elif self._closing and not self._waiting:
                    return None
                else:
                    self._changed.wait()

    def _first_ready(self):
        """Takes from the waiting the first whose parents are done, or None."""
        for job in self._waiting:
            if all(self._settled[parent] for parent in job.after):
                self._waiting.remove(job)
                return job
        return None

    def _lost(self):
        """Takes from the waiting what can't run any more: (future, error) of each."""
        lost = []
        for job in list(self._waiting):  # children come after their parents
            errors = [self._errors[f] for f in self._errors if f in job.after]
            if not errors and not self._stopping:
                continue
            name = job.command.name
            error = passed_on(name, errors[0]) if errors else CommandStopped(name)
            self._waiting.remove(job)
            self._note(job, error)
            lost.append((job.future, error))
        return lost

    def _run(self, worker, command):
        """Runs a command, again if it may; the seconds it took."""
        for left in range(self._retries, -1, -1):
            self._started(command.name)
            os.makedirs(os.path.dirname(command.log) or ".", exist_ok=True)
            with open(command.log, "ab") as log:
                size = log.tell()
            began = time.monotonic()
            code, died = worker.run(command)
            if code == 0 and not died:
                return time.monotonic() - began
            if code == signals.EXIT_CODE or self._stopping and died:
                raise CommandStopped(command.name)
            reason = death(code) if died else last_words(command.log, size)
            if not left or self._stopping or not (died or code == 1):
                raise CommandFailed(command.name, code, reason, command.log)


def _tell(lost):
    """Settles the futures of commands that don't run."""
    for future, error in lost:
        if future.set_running_or_notify_cancel():
            future.set_exception(error)
