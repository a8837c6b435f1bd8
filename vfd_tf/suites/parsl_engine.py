"""Runs commands where a Parsl configuration says: a cluster's nodes, or this machine."""

import concurrent.futures
import math
import os
import pathlib
import runpy
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable

from vfd_tf import signals
from vfd_tf.hyperparameters import InputError, reason
from vfd_tf.suites import worker
from vfd_tf.suites.command import (
    EXIT_BAD_INPUT,
    RUN,
    Command,
    CommandFailed,
    CommandStopped,
    last_words,
    passed_on,
)

_EVERY = 0.5  # seconds between two looks at the files that workers leave
_STOP = "stop"


def retry_cost(error: Exception, task: dict) -> float:
    """A `retry_handler` of `parsl.Config`: neither bad input nor what was stopped again."""
    final = isinstance(error, CommandStopped)
    final = final or getattr(error, "code", None) == EXIT_BAD_INPUT
    return math.inf if final else 1


def run_command(
    run: str, command: Command, folder: str, number: int, inputs: tuple = ()
) -> float:
    """What a worker of Parsl does: the seconds that the command takes, or its error.

    Args:
        run: Dotted name of what takes the words.
        folder: Of the engine, which workers share: `number` is written there when the
            command begins, and a file `stop` there asks it to end.
        inputs: Results of the commands that it needs.
    """
    stop = os.path.join(folder, _STOP)
    if os.path.exists(stop):
        raise CommandStopped(command.name)
    pathlib.Path(folder, str(number)).touch()
    size = os.path.getsize(command.log) if os.path.exists(command.log) else 0
    ended, began = threading.Event(), time.monotonic()
    threading.Thread(target=_heed, args=(stop, ended), daemon=True).start()
    try:
        code = worker.execute(run, list(command.argv), command.log)
    finally:
        ended.set()
    if code == signals.EXIT_CODE:
        raise CommandStopped(command.name)
    if code:
        raise CommandFailed(command.name, code, last_words(command.log, size), command.log)
    return time.monotonic() - began


def _heed(stop, ended):
    """Asks the command of this process to stop, once there is the file."""
    while not ended.wait(_EVERY):
        if os.path.exists(stop):
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _configuration(source):
    """The `parsl.Config` of a file that defines `config`, of a function, or itself."""
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        try:
            source = runpy.run_path(name).get("config")
        except OSError as error:
            raise InputError(
                f"{name} can't be read ({error.strerror}): name a Python file that "
                "defines `config`, such as examples/parsl/local.py."
            ) from error
        except Exception as error:
            raise InputError(
                f"{name} can't be run ({type(error).__name__}: {reason(error)}): see "
                "examples/parsl/local.py."
            ) from error
    config = source() if callable(source) else source
    if not hasattr(config, "executors"):
        raise InputError(
            "The Parsl configuration defines no `config = parsl.Config(...)`: see "
            "examples/parsl/local.py."
        )
    config.usage_tracking = 0
    return config


def _find_programs():
    """Lets Parsl find its own programs, also where no virtual environment is active."""
    if shutil.which("interchange.py") is None:
        folder = os.path.dirname(sys.executable)
        os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])


class ParslEngine:
    """Runs commands by Parsl: its configuration says where, how many, and how often again.

    Logs and Parsl's `run_dir` have to be in folders that the workers share, and the
    workers have to import vfd_tf. Retries are Parsl's (`retries`, `retry_handler`). One
    GPU a worker: `available_accelerators`.

    Args:
        config: A Python file that defines `config`, a `parsl.Config` or a function that
            gives one; or such a thing itself.
        started: Is called with the name of a command once it has begun, in any thread.
        run: Dotted name of what takes the words of a command, in a worker.

    Attributes:
        slots: How many commands run at once, at most; None where it isn't known.

    Raises:
        InputError: Parsl is not installed, or the file defines no configuration.
    """

    def __init__(
        self,
        config: str | os.PathLike | Callable,
        started: Callable[[str], None] | None = None,
        run: str = RUN,
    ):
        try:
            import parsl
        except ImportError as error:
            raise InputError(
                "--engine=parsl needs Parsl: pip install vfd_tf[parsl]."
            ) from error
        _find_programs()
        config = _configuration(config)
        self.slots = _slots(config)
        self._kernel = parsl.DataFlowKernel(config)
        self._app = parsl.python_app(run_command, data_flow_kernel=self._kernel)
        self._folder = os.path.join(os.path.abspath(self._kernel.run_dir), "commands")
        os.makedirs(self._folder)
        self._run, self._started = run, started or (lambda name: None)
        self._lock = threading.RLock()
        self._commands = {}  # future -> (command, Parsl's future)
        self._begun = set()  # futures
        self._errors = {}  # future -> exception, in the order in which they came
        self._closed = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    @classmethod
    def of(cls, flags, started: Callable[[str], None]) -> "ParslEngine":
        """The engine of --engine_config.

        Raises:
            InputError: It is missing, or there are flags of the local engine.
        """
        if not flags.engine_config:
            raise InputError(
                "--engine=parsl needs --engine_config=FILE, such as "
                "examples/parsl/local.py."
            )
        if flags.workers or flags.retries:
            raise InputError(
                "--workers and --retries are of --engine=local: leave them out, the "
                "configuration of Parsl says both."
            )
        return cls(flags.engine_config, started=started)

    def submit(
        self, command: Command, after: Iterable[concurrent.futures.Future] = ()
    ) -> concurrent.futures.Future:
        """Hands a command to Parsl, to run when all of `after` are done.

        Returns:
            The seconds it takes; or `CommandFailed`, `ParentFailed` or `CommandStopped`.
        """
        future, after = concurrent.futures.Future(), list(after)
        future.set_running_or_notify_cancel()  # Parsl's tasks can't be cancelled
        own = Command(command.name, command.argv, os.path.abspath(command.log))
        with self._lock:
            number, needs = len(self._commands), [self._commands[p][1] for p in after]
            task = self._app(self._run, own, self._folder, number, inputs=needs)
            self._commands[future] = command, task
        task.add_done_callback(lambda task: self._ended(future, after, task))
        return future

    def stop(self) -> None:
        """Asks the commands that run to save and end; the others don't begin."""
        pathlib.Path(self._folder, _STOP).touch()
        self._look_once()
        with self._lock:
            waiting = [future for future in self._commands if future not in self._begun]
        for future in waiting:
            self._settle(future, error=CommandStopped(self._commands[future][0].name))

    def close(self) -> None:
        """Waits for all commands, and gives the workers back."""
        try:
            concurrent.futures.wait(list(self._commands))
        finally:
            if not self._closed.is_set():
                self._closed.set()
                self._kernel.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        try:
            if error is not None:
                self.stop()
        finally:
            self.close()

    def _look(self):
        while not self._closed.wait(_EVERY):
            self._look_once()

    def _look_once(self):
        """Tells of the commands that have begun, by the files that workers leave."""
        numbers = set(os.listdir(self._folder))
        with self._lock:
            pairs = enumerate(list(self._commands))
            begun = [future for n, future in pairs if str(n) in numbers]
        for future in begun:
            self._begin(future)

    def _begin(self, future):
        with self._lock:
            new = future not in self._begun and not future.done()
            self._begun.add(future)
        if new:
            self._started(self._commands[future][0].name)

    def _ended(self, future, after, task):
        """Settles the future of a command whose task at Parsl has ended."""
        error, command = task.exception(), self._commands[future][0]
        if error is None:
            self._begin(future)
            self._settle(future, task.result())
            return
        with self._lock:
            first = next((self._errors[f] for f in self._errors if f in after), None)
        if first:
            error = passed_on(command.name, first)
        elif not isinstance(error, (CommandFailed, CommandStopped)):
            said = str(error).strip().split("\n")[0][:200]
            reason = f"its process was lost ({type(error).__name__}: {said})"
            error = CommandFailed(command.name, None, reason, command.log)
        if isinstance(error, CommandFailed):
            self._begin(future)
        self._settle(future, error=error)

    def _settle(self, future, seconds=None, error=None):
        with self._lock:
            if future.done():
                return
            if error:
                self._errors[future] = error
                future.set_exception(error)
            else:
                future.set_result(seconds)


def _slots(config):
    """How many commands the executors of a configuration run at once, or None."""
    count = 0
    for executor in config.executors:
        provider = getattr(executor, "provider", None)
        workers = getattr(executor, "max_workers_per_node", None)
        if provider is None or not workers or math.isinf(workers):
            return None
        count += workers * provider.nodes_per_block * provider.max_blocks
    return count
