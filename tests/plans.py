"""Suites that are planned without reading a data set, and the file of one."""

from vfd_tf.cli import flags, main, suite_plan
from vfd_tf.suites.graph import Graph
from vfd_tf.suites.suite import read

ROWS = ["Vanilla"] + [
    f"{base}{more}"
    for base in ("ALP", "TRADES", "MART", "HAT")
    for more in ("", "+KD", "+BGAT", "+LBGAT", "+VFD-Adv")
]
NO_DATA = lambda experiment: "0" * 16  # noqa: E731 -- the data set is not read


GOOD = """
title = "Mine"
flags = "--dataset=digits --arch=resnet8"
columns = "clean pgd20"
[rows]
"TRADES" = "--method=trades --distill=none"
"""


def values_of(*words):
    values = flags.define()
    flags.parse(values, words)
    return values


def planned(name, scale="smoke", more=(), seeds=(0,), root="runs"):
    graph = Graph(root, NO_DATA, flags.words)
    found = read(name, scale)
    return graph, [
        suite_plan.PlannedSuite(each, f"{root}/{each.name}", graph, more, seeds)
        for each in found
    ]


def run(*words):
    return main.main(["run.py", "suite", *map(str, words)])
