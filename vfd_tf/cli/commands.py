"""The command line of every node of a suite's graph, and where its log is."""

import os
import re
import shlex

from vfd_tf.experiments.evaluation_plan import EvaluationPlan
from vfd_tf.suites.graph import Graph, Node


def words_of(node: Node, graph: Graph) -> tuple[str, ...]:
    """What follows `python run.py` in the command of a node."""
    plan = node.plan
    if plan is None:
        return node.words
    words = [*node.words, f"--runs={graph.root}", "--wait", *_evaluation_words(plan)]
    if plan.surrogate:
        words.append(f"--surrogate={plan.surrogate}")
    return tuple(words)


def _evaluation_words(plan: EvaluationPlan):
    yield f"--eval_attacks={','.join(plan.attacks)}"
    yield f"--eval_students={','.join(plan.students)}"
    yield "--noeval_teachers"
    if plan.max_images:
        yield f"--max_images={plan.max_images}"
    if plan.attack_images:
        pairs = ",".join(f"{name}:{count}" for name, count in plan.attack_images)
        yield f"--attack_images={pairs}"
    if plan.mixtures:
        yield f"--mixtures={','.join(mix.text for mix in plan.mixtures)}"


def shell(node: Node, graph: Graph) -> str:
    """The command of a node as a line of a shell."""
    return shlex.join(["python", "run.py", *words_of(node, graph)])


def log_of(node: Node, root: str) -> str:
    """The log of a node's command."""
    name = re.sub(r"[^\w.=+-]+", "-", os.path.basename(node.path))
    return os.path.join(root, "logs", f"{name}.log")
