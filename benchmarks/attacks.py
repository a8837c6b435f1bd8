"""PGD and C&W of vfd_tf against the attack libraries, each in a process of its own.

    python -m benchmarks.attacks --peers=foolbox,art,cleverhans --peer_python=...

One batch on ResNet-18, every image attacked to the end, one call in turn. foolbox, ART
and torchattacks are no dependencies of the package: `pip install .[bench]`, torchattacks
best in an environment of its own.
"""

import argparse
import contextlib
import sys

from benchmarks import machine, timing, worker
from benchmarks.pytorch_trades import rested

OURS = "vfd_tf"
TORCH = ("torchattacks",)


def start(options, stack) -> dict:
    """The workers, one after the other, so that no warm-up disturbs another."""
    names = "batch_size", "steps", "width", "threads", "attack"
    flags = [f"--{name}={getattr(options, name)}" for name in names]
    sides = {OURS: (sys.executable, ["--library=vfd"])}
    for policy in options.precisions:
        extra = ["--library=vfd", f"--craft_precision={policy}"]
        sides[f"{OURS}, {policy}"] = (sys.executable, extra)
    for peer in options.peers:
        python = options.torch_python if peer in TORCH else options.peer_python
        sides[peer] = (python, [f"--library={peer}"])
    return {
        name: stack.enter_context(worker.Worker(python, "attack_worker", [*flags, *extra]))
        for name, (python, extra) in sides.items()
    }


def rows(seconds, options):
    """One row a side: images a second, spread, and theirs against ours."""
    for name, own in seconds.items():
        rate = 1000 * options.batch_size / timing.milliseconds(own)
        times = "" if name == OURS else f"{timing.ratio(own, seconds[OURS]):.2f}"
        steps = rate * options.steps
        yield name, f"{rate:.2f}", f"{steps:.1f}", f"{timing.spread(own):.1%}", times


def parse(arguments):
    """The flags of the command line."""

    def names(text):
        return [name for name in text.split(",") if name]

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", type=names, default="foolbox,art,cleverhans")
    parser.add_argument("--peer_python", default=sys.executable)
    parser.add_argument("--torch_python", default=sys.executable)
    parser.add_argument("--attack", default="pgd", choices=("pgd", "cw"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precisions", type=names, default="", help="to craft in, too")
    parser.add_argument("--batch_size", type=int, default=128)  # as `evaluate` does
    parser.add_argument("--width", type=float, default=1.0, help="factor on all channels")
    parser.add_argument("--threads", type=int, default=machine.cores())
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--pause", type=float, default=0.3, help="between two turns")
    return parser.parse_args(arguments)


def main(arguments):
    """Measures and prints header and table."""
    options = parse(arguments)
    with contextlib.ExitStack() as stack:
        workers = start(options, stack)
        facts = {
            side: "; ".join(f"{k} {v}" for k, v in process.facts["facts"].items())
            for side, process in workers.items()
        }
        facts["threads"] = f"{options.threads} each"
        print(machine.header(machine.command("attacks", arguments), facts), flush=True)
        timers = {name: rested(run, options.pause) for name, run in workers.items()}
        seconds = timing.interleave(timers, options.repeats)
    columns = f"{options.attack}-{options.steps}", "images/s", "image-steps/s"
    columns += "spread", "theirs / ours"
    print(timing.table(columns, rows(seconds, options)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
