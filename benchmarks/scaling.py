"""Steps on replicas and workers of one machine, against one device.

    python -m benchmarks.scaling --pair=trades+vfd --batch_size=32

Every shape trains on the same global batch, in processes of its own, one step in turn.
Replicas are logical CPUs, workers talk through the loopback device; all share the cores, so
that what a shape takes longer than one device is the cost of the machinery.
"""

import argparse
import contextlib
import json
import os
import socket
import sys

from benchmarks import machine, timing, worker

BASE = "one-device"
# Name -> workers, replicas of each (None: no strategy), further flags.
SHAPES = {
    BASE: (1, None, ()),
    "1-replica": (1, 1, ()),
    "2-replicas": (1, 2, ()),
    "2-replicas-own-bn": (1, 2, ("--own_batch_norm",)),
    "2-workers": (2, 1, ()),
    "2-workers-own-bn": (2, 1, ("--own_batch_norm",)),
}


class Group:
    """The workers of one shape; a call is a step of all of them."""

    def __init__(self, shape, flags, stack):
        count, replicas, own = SHAPES[shape]
        threads = max(1, (os.cpu_count() or 1) // count)
        flags = [*flags, *own, f"--threads={threads}", f"--replicas={replicas or 0}"]
        ports = free_ports(count)
        addresses = [f"localhost:{port}" for port in ports]
        self.members = []
        for index in range(count):
            task = {"type": "worker", "index": index}
            config = json.dumps({"cluster": {"worker": addresses}, "task": task})
            environment = {"TF_CONFIG": config if count > 1 else "{}"}
            member = worker.Worker(sys.executable, "scaling_worker", flags, environment)
            self.members.append(stack.enter_context(member))
        self.facts = [member.facts for member in self.members]

    def __call__(self) -> float:
        """Seconds of one step of all workers, that of the slowest."""
        for member in self.members:
            member.ask()
        return max([member.answer() for member in self.members])


def free_ports(count):
    """Ports that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]


def rows(seconds, batch_size):
    """One row a shape: median, images a second, the paired ratio to one device."""
    for name, own in seconds.items():
        step = timing.milliseconds(own)
        ratio = "" if name == BASE else f"{timing.ratio(own, seconds[BASE]):.3f}"
        rate = f"{1000 * batch_size / step:.1f}"
        yield name, f"{step:.1f}", f"{timing.spread(own):.1%}", rate, ratio


COLUMNS = "shape", "step (ms)", "spread", "images/s", "shape / one device"


def parse(arguments):
    """The flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pair", default="trades+vfd")
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--width", type=float, default=1.0, help="factor on all channels")
    parser.add_argument("--batch_size", type=int, default=32, help="of all replicas")
    parser.add_argument("--steps", type=int, default=10, help="of the attack")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--shapes", default=",".join(SHAPES), help="comma list")
    options = parser.parse_args(arguments)
    options.shapes = options.shapes.split(",")
    if unknown := set(options.shapes) - set(SHAPES):
        parser.error(f"no shapes: {', '.join(unknown)}; there are {', '.join(SHAPES)}")
    options.shapes = list(dict.fromkeys([BASE, *options.shapes]))
    return options


def main(arguments):
    """Measures and prints header and table."""
    options = parse(arguments)
    names = "pair", "arch", "width", "batch_size", "steps"
    flags = [f"--{name}={getattr(options, name)}" for name in names]
    with contextlib.ExitStack() as stack:
        groups = {shape: Group(shape, flags, stack) for shape in options.shapes}
        facts = groups[BASE].facts[0]["facts"]
        print(machine.header(machine.command("scaling", arguments), facts), flush=True)
        seconds = timing.interleave(groups, options.repeats)
    print(timing.table(COLUMNS, rows(seconds, options.batch_size)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
