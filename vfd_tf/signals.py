"""Signals that end a training without losing it: SIGTERM, Ctrl-C, a scheduler's own."""

import os
import signal
import threading

from vfd_tf.hyperparameters import InputError

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on
NAMES = "SIGTERM", "SIGINT"


class Stopped(SystemExit):
    """A signal has ended the work, and what was done is saved; exit code 75.

    Attributes:
        signal: Its name.
    """

    def __init__(self, name: str):
        super().__init__(EXIT_CODE)
        self.signal = name

    def __str__(self):
        return f"stopped by {self.signal}"


def named(name: str) -> str:
    """The full name of a signal, of USR1 or SIGUSR1.

    Raises:
        InputError: There is none of this name, or none that can be waited for.
    """
    full = name.upper() if name.upper().startswith("SIG") else f"SIG{name.upper()}"
    found = getattr(signal.Signals, "__members__", {}).get(full)
    if found is None or full in ("SIGKILL", "SIGSTOP"):
        raise InputError(f"No signal {name!r} can be waited for: name one such as USR1.")
    return full


class Signals:
    """Inside, signals ask to stop instead of ending the process.

    A second SIGINT is a `KeyboardInterrupt` at once. Only the main thread of a process can
    be asked; elsewhere nothing changes.

    Args:
        names: Of the signals.

    Attributes:
        asked: Name of the first that came, or None.
        waits: Whether who works looks at `asked`; else a signal raises `Stopped` where it
            arrives.
    """

    active: "Signals | None" = None

    def __init__(self, names: tuple[str, ...] = NAMES):
        self.numbers = [getattr(signal, named(name)) for name in names]
        self.asked, self.waits, self._before = None, False, {}
        self._thrown = None

    def __enter__(self):
        if Signals.active is None and threading.current_thread() is threading.main_thread():
            Signals.active, self.asked, self._thrown = self, None, None
            self._before = {n: signal.signal(n, self._handle) for n in self.numbers}
        return self

    def __exit__(self, kind, error, traceback):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        if Signals.active is self:
            Signals.active = None
        # Inside a library's C code an exception may come out as another one.
        if self._thrown and isinstance(error, Exception):
            raise self._thrown from error

    def _handle(self, number, frame):
        again = self.asked is not None and number == signal.SIGINT
        self.asked = self.asked or signal.Signals(number).name
        if again or not self.waits:
            self._thrown = KeyboardInterrupt() if again else Stopped(self.asked)
            raise self._thrown
        # Not `print`, which a signal may have interrupted.
        os.write(2, f"\n{self.asked}: stopping after this step\n".encode())

    def check(self) -> None:
        """Raises `Stopped` if a signal has come."""
        if self.asked:
            raise Stopped(self.asked)
