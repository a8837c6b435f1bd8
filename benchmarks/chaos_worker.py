"""Runs of the command line that are killed where `benchmarks.chaos` says.

Reads one JSON object a line, {"words": flags, "log": path, "steps": path, "kill": ...},
runs each in a fork of itself, in which TensorFlow is loaded, and answers with the exit
status. "kill" is null, or one of

    {"signal": n, "after": seconds}     from the first file that is written on
    {"signal": n, "write": k, "at": "half" | "whole" | "named" | "curves"}
                                        the k-th file: half written, whole under its
                                        temporary name, in place but for the folder's
                                        flush; or the k-th flush of TensorBoard's
    {"limit": bytes}                    no file can be larger: a full disk
"""

import json
import mmap
import os
import resource
import signal
import sys
import threading
import time

import vfd_tf  # noqa: F401, before TensorFlow

# isort: split
from tensorboard.summary.writer import event_file_writer

from vfd_tf import files
from vfd_tf.cli import main
from vfd_tf.training.devices import dispatch


class Killer:
    """Ends this process as a plan says, at the moment it says."""

    def __init__(self, plan):
        self.plan, self.writes, self.flushes = plan, 0, 0

    def kill(self):
        os.kill(os.getpid(), self.plan["signal"])

    def install(self):
        if "limit" in self.plan:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.plan["limit"],) * 2)
            return
        flush = files._flush

        def flushed(path):
            folder = os.path.isdir(path)
            self.written(path, folder)
            flush(path)

        files._flush = flushed
        written = event_file_writer.EventFileWriter.flush

        def curves(writer):
            self.flushes += 1
            if self.plan.get("at") == "curves" and self.flushes == self.plan["write"]:
                self.kill()
            written(writer)

        event_file_writer.EventFileWriter.flush = curves

    def written(self, path, folder):
        if not folder:
            self.writes += 1
        if "after" in self.plan and self.writes == 1 and not folder:
            timer = threading.Timer(self.plan["after"], self.kill)
            timer.daemon = True
            timer.start()
        if self.plan.get("write") != self.writes:
            return
        at = self.plan["at"]
        if at == "half" and not folder:
            os.truncate(path, os.path.getsize(path) // 2)
            self.kill()
        if at == ("named" if folder else "whole"):
            self.kill()


def count_steps(path):
    """Counts every training step that is run, in a file that outlives the process."""
    with open(path, "r+b") as file:
        counter = mmap.mmap(file.fileno(), 8)
    run = dispatch.Dispatch._run

    def counted(self, data):
        run(self, data)
        if self.one_size:  # a training
            value = int.from_bytes(counter[:8], "little") + 1
            counter[:8] = value.to_bytes(8, "little")

    dispatch.Dispatch._run = counted


def child(job):
    """One run, in a process of its own."""
    limited = "limit" in (job["kill"] or ())  # which would hold for the log, too
    path = os.devnull if limited else job["log"]
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    count_steps(job["steps"])
    if job["kill"]:
        Killer(job["kill"]).install()
    code = main.main(["run.py", *job["words"]])
    sys.stdout.flush()
    os._exit(code)


def serve():
    """Answers jobs until there are none."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in sys.stdin:
        started, process = time.perf_counter(), os.fork()
        if process == 0:
            child(json.loads(line))
        _, status = os.waitpid(process, 0)
        code, seconds = os.waitstatus_to_exitcode(status), time.perf_counter() - started
        print(json.dumps({"code": code, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    serve()
