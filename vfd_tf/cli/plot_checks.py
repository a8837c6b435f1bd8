"""What runs have in common to be plotted, and the commands that add what they lack."""

import shlex

from vfd_tf import evaluation
from vfd_tf.evaluation.protocols import is_under
from vfd_tf.evaluation.result import have_like_worst
from vfd_tf.experiments.record import Record
from vfd_tf.hyperparameters import InputError


def facets(key: str) -> tuple[str, str, int]:
    """ "linf:8/255 n=10000" -> ("linf", "8/255", 10000)."""
    threat, images = key.rsplit(" n=", 1)
    return (*threat.split(":", 1), int(images))


def common_evaluation(records: list[Record], student: str, names, asked) -> str:
    """The one threat model and number of images that all runs can be compared under.

    Of several the one that has the columns, then that of the most images.
    """
    data = {record.identity["dataset"] for record in records}
    if len(data) > 1:
        raise InputError(f"Runs on {' and '.join(sorted(data))} can't share a plot.")
    known = [_known(record, student, asked) for record in records]
    common = [key for key in known[0] if all(key in other for other in known)]
    if not common:
        listed = "; ".join(
            f"{record.path}: {', '.join(record.accuracies[student])}" for record in records
        )
        raise InputError(f"Runs evaluated differently can't share a plot ({listed}).")
    full = [k for k in common if all(set(names) <= set(keys[k]) for keys in known)]
    if not full:
        _refuse_missing(records, student, common[0], names)
    threats = {key.split(" ")[0] for key in full}
    if len(threats) > 1:
        raise InputError(
            f"The runs are evaluated under {' and '.join(sorted(threats))}; choose with "
            "--eval_norm and --eval_epsilon."
        )
    chosen = max(full, key=lambda key: facets(key)[-1])
    if "worst" in names:
        rows = [(r, its[chosen]) for r, its in zip(records, known, strict=True)]
        _refuse_unequal(rows, chosen.split(" ")[0])
    return chosen


def _refuse_unequal(rows, threat):
    """A worst case over other attacks is another number."""
    (first, columns), *others = rows
    for record, row in others:
        if not have_like_worst(row, columns, threat):
            raise InputError(
                f"'worst' is over other attacks for {record.path} ({', '.join(row)}) than "
                f"for {first.path} ({', '.join(columns)}); evaluate both with the same "
                "--eval_attacks, or choose another --plot_y."
            )


def evaluated(record: Record, student: str) -> Record:
    """The record of a run whose student has test accuracies."""
    if not record.accuracies.get(student):
        has = ", ".join(record.accuracies) or "of none yet"
        raise InputError(
            f"{record.path} has no test accuracies of a student {student!r} ({has}); "
            f"finish the run with {record.command}, or choose another --plot_student."
        )
    return record


def _known(record, student, asked):
    """Evaluations of a run's student: "<threat model> n=<images>" -> accuracies."""
    return {
        key: row
        for key, row in record.accuracies[student].items()
        if all(a is None or a == b for a, b in zip(asked, facets(key), strict=True))
    }


def _refuse_missing(records, student, key, names):
    for record in records:
        row = record.accuracies[student][key]
        for name in names:
            if name not in row:
                raise InputError(
                    f"{record.path} has no {name!r} for its {student} student under {key}, "
                    f"only {', '.join(row)}; {_remedy(record, key, name, row)}"
                )


def _remedy(record, key, name, row):
    """What to do where a run has no column of a name."""
    if is_attack(name):
        return f"add it with {evaluating(record, key, [name])}"
    if name != "worst":
        return "choose one of these, or an attack, with --plot_x and --plot_y."
    known = [column for column in row if is_attack(column)]
    in_ball = any(is_under(column, key.split(" ")[0]) for column in known)
    if len(known) < 2 or not in_ball:  # of these alone there is no worst case
        known.append(next(a for a in ("pgd20", "autoattack") if a not in known))
    return f"add it with {evaluating(record, key, known)}"


def evaluating(
    record: Record, key: str, attacks: list[str], more: tuple[str, ...] = ()
) -> str:
    """The command that evaluates a run of this key under more attacks."""
    norm, epsilon, images = facets(key)
    words = [f"--eval_norm={norm}", f"--eval_epsilon={epsilon}", f"--max_images={images}"]
    words += [f"--eval_attacks={','.join(attacks)}"] if attacks else []
    return f"{record.command} {shlex.join([*words, *more])}."


def is_attack(name: str) -> bool:
    """Whether a column is an attack that can be asked for by this name."""
    try:
        evaluation.protocol(name)
    except InputError:
        return False
    return True
