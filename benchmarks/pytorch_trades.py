"""The TRADES step of vfd_tf against that of the original PyTorch implementation.

    python -m benchmarks.pytorch_trades --torch_python=/path/to/torch/bin/python

ResNet-18 with the CIFAR stem, the same batch and the same number of threads; every side in
a process of its own, one step in turn. PyTorch is an optional extra, `torch==2.13.0`, best
in an environment of its own.
"""

import argparse
import contextlib
import sys
import time

from benchmarks import machine, timing, worker

OURS = "vfd_tf"
VARIANTS = ("released", "tuned")


def forwards(name: str, steps: int) -> int:
    """Forward-equivalents of a step, counted as in `benchmarks.step`."""
    if name == "PyTorch released":
        return 3 * steps + 9  # clean logits in every attack step, three training passes
    return 1 + 2 * steps + 6


def start(options, stack) -> dict:
    """The workers, one after the other, so that no warm-up disturbs another."""
    names = "batch_size", "steps", "width", "threads"
    flags = [f"--{name}={getattr(options, name)}" for name in names]
    begin = stack.enter_context
    workers = {OURS: begin(worker.Worker(sys.executable, "tensorflow_worker", flags))}
    workers[OURS].facts  # noqa: B018
    for variant in VARIANTS:
        arguments = [*flags, f"--variant={variant}"]
        workers[f"PyTorch {variant}"] = begin(
            worker.Worker(options.torch_python, "pytorch_worker", arguments)
        )
        workers[f"PyTorch {variant}"].facts  # noqa: B018  waits until it is ready
    for what in ("device", "weights"):
        values = {name: process.facts[what] for name, process in workers.items()}
        if len(set(values.values())) > 1:
            raise SystemExit(f"Not the same {what}: {values}.")
    return workers


def rested(run, pause):
    """`run` after a pause, in which the threads of the last worker go to sleep."""

    def seconds():
        time.sleep(pause)
        return run()

    return seconds


def rows(seconds, steps):
    """One row a side: floor, median, and the paired ratio of ours to it."""
    for name, own in seconds.items():
        ratio = "" if name == OURS else f"{timing.ratio(seconds[OURS], own):.3f}"
        step = f"{timing.milliseconds(own):.1f}"
        yield name, forwards(name, steps), step, f"{timing.spread(own):.1%}", ratio


def parse(arguments):
    """The flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--torch_python", default=sys.executable, help="interpreter that has PyTorch"
    )
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10, help="of the attack")
    parser.add_argument("--width", type=float, default=1.0, help="factor on all channels")
    parser.add_argument("--threads", type=int, default=machine.cores())
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument(
        "--pause", type=float, default=0.3, help="seconds between two turns"
    )
    return parser.parse_args(arguments)


def main(arguments):
    """Measures and prints header and table."""
    options = parse(arguments)
    with contextlib.ExitStack() as stack:
        workers = start(options, stack)
        sides = {"vfd_tf": workers[OURS], "PyTorch": workers["PyTorch released"]}
        facts = {
            side: "; ".join(f"{k} {v}" for k, v in process.facts["facts"].items())
            for side, process in sides.items()
        }
        facts["threads"] = f"{options.threads} each"
        facts["weights"] = f"{workers[OURS].facts['weights']:,} each"
        line = machine.command("pytorch_trades", arguments)
        print(machine.header(line, facts), flush=True)
        timers = {name: rested(run, options.pause) for name, run in workers.items()}
        seconds = timing.interleave(timers, options.repeats)
    columns = "TRADES step", "forwards", "step (ms)", "spread", "ours / theirs"
    print(timing.table(columns, rows(seconds, options.steps)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
