"""Whether what a run directory says is what a run writes: it may be a stranger's."""

import re


def is_owner(identity, fields) -> bool:
    """Whether these are texts and numbers, component by component, as in run.json."""
    if not isinstance(identity, dict) or not isinstance(fields, dict):
        return False
    components = [identity.get("helpers", {}), *fields.values()]
    if not all(isinstance(component, dict) for component in components):
        return False
    texts = [identity.get(name, "") for name in ("dataset", "arch", *fields)]
    texts += identity.get("helpers", {}).values()
    before = identity.get("continues", {})
    epochs = [fields.get("recipe", {}).get("epochs", 0)]
    epochs += [before.get("teacher_epochs", 0)] if isinstance(before, dict) else [None]
    return (
        all(isinstance(text, str) for text in texts)
        and all(_is_count(number) for number in epochs)
        and all(_is_plain(v) for component in components for v in component.values())
    )


def _is_plain(value):
    items = value if isinstance(value, list) else [value]
    return not any(isinstance(item, (dict, list)) for item in items)


def _is_count(value):
    return type(value) is int and 0 <= value < 2**32


def _is_number(value):
    return type(value) is float or type(value) is int and abs(value) < 2**63


def are_results(results: dict) -> bool:
    """Whether the accuracies, epochs and seconds of results.json are some."""
    return (
        are_accuracies(results.get("accuracies", {}))
        and _are_fits(results.get("fits", {}))
        and _is_count(results.get("best_epoch", 0))
        and _is_number(results.get("wall_time_s", 0))
    )


def _are_fits(mixtures):
    """Whether this is mixture -> threat model -> name -> number, or "reason" -> text."""
    try:
        return all(
            isinstance(value, str) if name == "reason" else _is_number(value)
            for threats in mixtures.values()
            for fit in threats.values()
            for name, value in fit.items()
        )
    except AttributeError:
        return False


def are_accuracies(students) -> bool:
    """Whether this is student -> "<threat model> n=<images>" -> column -> percent."""
    try:
        return all(
            re.search(r":.* n=[1-9]\d{0,9}$", key)
            and all(0 <= value <= 100 for value in row.values())
            for evaluations in students.values()
            for key, row in evaluations.items()
        )
    except (AttributeError, TypeError):
        return False
