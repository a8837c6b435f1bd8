"""A process that runs one command after another, each written to a log of its own.

It is started as a file, without vfd_tf, and imports nothing but the standard library:
TensorFlow is imported with the first command, in the environment of the device, once.
Requests come as lines of JSON on standard input; that one has begun, and then its exit
code, go to standard output. If the process at the other end is gone, the command that runs
gets SIGTERM, so that it saves.
"""

import contextlib
import importlib
import json
import os
import queue
import signal
import sys
import threading
import traceback


def execute(run: str, words: list[str], log: str) -> int:
    """Runs a command in this process; its exit code.

    Args:
        run: Dotted name of what takes the words, such as "package.module:main".
        words: What follows `python run.py`.
        log: File that is appended to, whatever writes: Python, or TensorFlow's C++.
    """
    before = sys.argv
    with _written_to(log):
        sys.argv = ["vfd", *words]
        try:
            module, _, name = run.partition(":")
            code = getattr(importlib.import_module(module), name)(sys.argv)
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            sys.argv = before
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
        _forget()
    return int(code or 0)


@contextlib.contextmanager
def _written_to(log):
    """Inside, standard output and error of this process are this file's end."""
    os.makedirs(os.path.dirname(log) or ".", exist_ok=True)
    streams = sys.stdout, sys.stderr
    for stream in streams:
        stream.flush()
        # A process that is killed has written the lines that it had.
        stream.reconfigure(line_buffering=True, errors="backslashreplace")
    before = [os.dup(1), os.dup(2)]
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for number in (1, 2):
        os.dup2(file, number)
    os.close(file)
    try:
        yield
    finally:
        for stream in streams:
            stream.flush()
        sys.stdout, sys.stderr = streams
        for number, descriptor in zip((1, 2), before, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)


def _forget():
    """Frees what a command leaves in a process; what it said once is said again."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.clear_session(free_memory=True)
    if "vfd_tf.progress" in sys.modules:
        sys.modules["vfd_tf.progress"].say_once.cache_clear()


def serve() -> None:
    """Runs the commands of standard input until that ends."""
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # a command that reads or prints doesn't disturb them
    waiting, busy = queue.SimpleQueue(), threading.Event()
    listening = threading.Thread(
        target=_listen, args=(requests, waiting, busy), daemon=True
    )
    listening.start()
    while (line := waiting.get()) is not None:
        request = json.loads(line)
        sys.path[:] = request["path"]
        busy.set()
        _reply(replies, "begun")
        code = execute(request["run"], request["words"], request["log"])
        busy.clear()
        _reply(replies, code)


def _reply(replies, text):
    with contextlib.suppress(BrokenPipeError):
        replies.write(f"{text}\n")
        replies.flush()


def _listen(requests, waiting, busy):
    for line in requests:
        waiting.put(line)
    waiting.put(None)
    if busy.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    serve()
