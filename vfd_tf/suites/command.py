"""A command of a suite, and the ways in which it may come to nothing."""

import dataclasses
import os
import signal

EXIT_BAD_INPUT = 2
RUN = "vfd_tf.cli.main:main"  # what takes the words of a command, by its dotted name
_END_OF_LOG = 1 << 16  # bytes of a log that are read for its last words


@dataclasses.dataclass(frozen=True)
class Command:
    """One `python run.py ...` of a suite.

    Attributes:
        name: What people call it.
        argv: The words after `python run.py`.
        log: The file to which all it writes is appended; folders are made.
    """

    name: str
    argv: tuple[str, ...]
    log: str


class CommandFailed(Exception):
    """A command ended with another exit code than 0, or its process died.

    Attributes:
        code: The exit code; minus the number of the signal that killed its process; None
            where it isn't known.
        reason: The last line of its log that begins with `error:`, or its last line, or
            what became of its process.
    """

    def __init__(self, name: str, code: int | None, reason: str, log: str):
        super().__init__(name, code, reason, log)
        self.name, self.code, self.reason, self.log = name, code, reason, log

    def __str__(self):
        reason = self.reason.removeprefix("error:").strip().rstrip(".")
        return f"{self.name} failed: {reason}; its log is {self.log}"


class ParentFailed(Exception):
    """A command did not run, since one that it needs had failed.

    Attributes:
        parent: Name of the command that failed, whether it is needed at first or at
            second hand; of several the first.
    """

    def __init__(self, name: str, parent: str):
        super().__init__(name, parent)
        self.name, self.parent = name, parent

    def __str__(self):
        return f"{self.name} did not run: {self.parent} had failed"


class CommandStopped(Exception):
    """A command was stopped and has saved, or had not begun: the same suite goes on."""

    def __init__(self, name: str):
        super().__init__(name)
        self.name = name

    def __str__(self):
        return f"{self.name} was stopped; the same suite continues it"


def passed_on(name: str, error: Exception) -> Exception:
    """What becomes of a command of this name if one that it needs has this error."""
    if isinstance(error, CommandStopped):
        return CommandStopped(name)
    return ParentFailed(name, getattr(error, "parent", None) or error.name)


def last_words(log: str, since: int = 0) -> str:
    """The last line of a log that begins with `error:`, or the last that isn't empty.

    Args:
        since: Byte at which what was appended last begins.
    """
    with open(log, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(since, size - _END_OF_LOG))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["it wrote nothing"])[-1]


def death(code: int) -> str:
    """What became of a process that ended in the middle of a command."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = next((f", {s.name}" for s in signal.Signals if s == -code), "")
    return f"its process was killed (signal {-code}{name})"
